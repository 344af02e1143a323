// Eigenvalues of one symmetric tridiagonal matrix, by implicit QL steps with Wilkinson's shift.
#pragma once

#include <cmath>
#include <limits>
#include <utility>

namespace SECATEURS_ISA {

constexpr int MOST_QL_STEPS = 60;  // for one eigenvalue; two or three are usual
constexpr double NEGLIGIBLE = 1e-30;  // an entry of a matrix of trace 1 that counts as 0 even beside zeros

// The diagonal becomes the eigenvalues, in no order. off[i] couples i and i + 1 and is used up. False if an eigenvalue
// didn't settle.
inline bool find_eigenvalues(double *diagonal, double *off, int n) {
    constexpr double eps = std::numeric_limits<double>::epsilon();
    off[n - 1] = 0;
    for (int low = 0; low < n; ++low) {
        for (int step = 0;; ++step) {
            int high = low;
            while (high < n - 1 && std::abs(off[high]) > eps * (std::abs(diagonal[high]) + std::abs(diagonal[high + 1])) + NEGLIGIBLE)
                ++high;
            if (high == low) break;
            if (step == MOST_QL_STEPS) return false;
            // shift: the eigenvalue of the leading 2 x 2 block that is nearer to its first entry
            const double half = (diagonal[low + 1] - diagonal[low]) / (2 * off[low]);
            const double root = std::sqrt(half * half + 1);
            double g = diagonal[high] - diagonal[low] + off[low] / (half + std::copysign(root, half));
            double sine = 1, cosine = 1, carried = 0;
            int i = high - 1;
            for (; i >= low; --i) {  // chase the bulge up by plane rotations
                const double f = sine * off[i], b = cosine * off[i];
                const double length = std::sqrt(f * f + g * g);
                off[i + 1] = length;
                if (length == 0) {
                    diagonal[i + 1] -= carried;
                    off[high] = 0;
                    break;
                }
                sine = f / length;
                cosine = g / length;
                const double rest = diagonal[i + 1] - carried;
                const double turn = (diagonal[i] - rest) * sine + 2 * cosine * b;
                carried = sine * turn;
                diagonal[i + 1] = rest + carried;
                g = cosine * turn - b;
            }
            if (i >= low) continue;
            diagonal[low] -= carried;
            off[low] = g;
            off[high] = 0;
        }
    }
    return true;
}

}  // namespace SECATEURS_ISA
