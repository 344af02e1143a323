// The trace of F(T) for tridiagonal T, F(x) = sum_j c_j log(1 + x / s_j) + a x + b x^2, one matrix a lane.
#pragma once

#include "lanes.hpp"
#include "pairs.hpp"

namespace SECATEURS_ISA {

constexpr int SHIFTS_AT_ONCE = 4;
constexpr int STEPS_BETWEEN_RESCALES = 8;
constexpr double SMALLEST_PIVOT = 1e-2;  // of the shift; a smaller pivot is rounding noise, is held there and flagged

// Natural logarithm of normal positive numbers, to 1e-13.
inline Doubles logarithm(Doubles x) {
    const Masks bits = (Masks)x;
    Masks exponent = ((bits >> 52) & 0x7ff) - 1023;
    Doubles mantissa = (Doubles)((bits & 0x000fffffffffffff) | 0x3ff0000000000000);  // [1, 2)
    const Masks high = mantissa > 1.4142135623730951;
    mantissa = high ? mantissa * 0.5 : mantissa;
    exponent -= high;  // a true mask is -1
    const Doubles t = (mantissa - 1.0) / (mantissa + 1.0), t2 = t * t;
    Doubles series = Doubles{} + 1.0 / 19;
    for (int k = 17; k >= 1; k -= 2) series = series * t2 + 1.0 / k;  // atanh(t) = t + t^3 / 3 + ...
    return 2.0 * t * series + __builtin_convertvector(exponent, Doubles) * 0.6931471805599453;
}

// log det(T + s I) less n log s for Count shifts s, by the three-term recurrence of leading determinants. All in
// float64: the fit's coefficients cancel.
template <int Count>
inline void log_determinants(const Doubles *diagonal, const Doubles *off_squared, int n, const double *shifts,
                             Doubles *out, Masks &flagged) {
    Doubles now[Count], before[Count], shift[Count], floor[Count], exponent[Count];
    for (int j = 0; j < Count; ++j) {
        shift[j] = broadcast<Doubles>(shifts[j]);
        floor[j] = shift[j] * SMALLEST_PIVOT;
        before[j] = broadcast<Doubles>(1);
        now[j] = diagonal[0] + shift[j];
        flagged |= now[j] < floor[j];
        now[j] = now[j] < floor[j] ? floor[j] : now[j];
        exponent[j] = Doubles{};
    }
    for (int i = 1; i < n; ++i) {
        const Doubles d = diagonal[i], e = off_squared[i];
        for (int j = 0; j < Count; ++j) {
            const Doubles smallest = floor[j] * now[j];
            Doubles next = (d + shift[j]) * now[j] - e * before[j];
            flagged |= next < smallest;
            next = next < smallest ? smallest : next;
            before[j] = now[j];
            now[j] = next;
        }
        if (i % STEPS_BETWEEN_RESCALES) continue;
        for (int j = 0; j < Count; ++j) {
            const Masks biased = ((Masks)now[j] >> 52) & 0x7ff;
            const Doubles scale = (Doubles)((2046 - biased) << 52);  // 2^-e
            exponent[j] += __builtin_convertvector(biased - 1023, Doubles);
            now[j] *= scale;
            before[j] *= scale;
        }
    }
    for (int j = 0; j < Count; ++j)
        out[j] = logarithm(now[j]) + exponent[j] * 0.6931471805599453 - double(n) * std::log(shifts[j]);
}

// Trace of F(T) in each lane of Doubles; T given by its diagonal and squared off-diagonal. A lane of `flagged` is set
// where a pivot had to be held.
inline Doubles trace_of_fit(const Doubles *diagonal, const Doubles *off_squared, int n, const Fit &fit,
                            Masks &flagged) {
    Doubles trace{}, trace_squared{};
    for (int i = 0; i < n; ++i) {
        trace += diagonal[i];
        trace_squared += diagonal[i] * diagonal[i] + 2.0 * off_squared[i];
    }
    Doubles total = trace * fit.linear + trace_squared * fit.quadratic;
    for (int j = 0; j < fit.count; j += SHIFTS_AT_ONCE) {
        Doubles logs[SHIFTS_AT_ONCE];
        log_determinants<SHIFTS_AT_ONCE>(diagonal, off_squared, n, fit.shifts + j, logs, flagged);
        for (int k = 0; k < SHIFTS_AT_ONCE; ++k) total += logs[k] * fit.coefficients[j + k];
    }
    return total;
}

}  // namespace SECATEURS_ISA
