// Householder reduction of symmetric matrices to tridiagonal form, one matrix a lane.
#pragma once

#include "lanes.hpp"

namespace SECATEURS_ISA {

constexpr int ROWS = 4;  // rows of the matrix that one pass of the inner loop holds in registers

inline size_t packed_size(int n) { return size_t(n) * (n + 1) / 2; }

// Scratch space and result for matrices of up to n rows.
template <class V> struct Tridiagonal {
    explicit Tridiagonal(int n) : memory_(6 * size_t(n)) {
        diagonal = memory_.get();
        off_squared = diagonal + n;
        u = off_squared + n;
        v = u + n;
        w = v + n;
        p = w + n;
    }
    V *diagonal;     // (n)
    V *off_squared;  // (n) squares of the off-diagonal; entry i couples i - 1 and i, entry 0 is 0
    V *u, *v, *w, *p;

  private:
    Buffer<V> memory_;
};

// One step's work on rows first .. first + Count - 1 of the leading block: subtract the pending v w' + w v' of the step
// before, and add the rows' part of p = A u. One pass over memory serves both.
template <int Count, bool Pending, class V> inline void sweep_rows(V *packed, int first, const Tridiagonal<V> &t) {
    V *row[Count];
    V u[Count], v[Count], w[Count], sum[Count];
    for (int r = 0; r < Count; ++r) {
        row[r] = packed + packed_size(first + r);
        u[r] = t.u[first + r];
        v[r] = Pending ? t.v[first + r] : V{};
        w[r] = Pending ? t.w[first + r] : V{};
        sum[r] = V{};
    }
    for (int c = 0; c < first; ++c) {
        const V uc = t.u[c];
        V pc = t.p[c];
        for (int r = 0; r < Count; ++r) {
            V x = row[r][c];
            if (Pending) row[r][c] = x = x - v[r] * t.w[c] - w[r] * t.v[c];
            sum[r] += x * uc;
            pc += x * u[r];
        }
        t.p[c] = pc;
    }
    for (int r = 0; r < Count; ++r) {  // the triangle on the diagonal
        for (int q = 0; q <= r; ++q) {
            V x = row[r][first + q];
            if (Pending) row[r][first + q] = x = x - v[r] * w[q] - w[r] * v[q];
            sum[r] += x * u[q];
            if (q < r) t.p[first + q] += x * u[r];
        }
        t.p[first + r] += sum[r];
    }
}

template <bool Pending, class V> inline void sweep(V *packed, int rows, const Tridiagonal<V> &t) {
    int first = 0;
    for (; first + ROWS <= rows; first += ROWS) sweep_rows<ROWS, Pending>(packed, first, t);
    for (; first < rows; ++first) sweep_rows<1, Pending>(packed, first, t);
}

// Sum of squares of the first n entries, in four strands.
template <class V> inline V sum_of_squares(const V *x, int n) {
    V strand[4] = {V{}, V{}, V{}, V{}};
    int k = 0;
    for (; k + 4 <= n; k += 4)
        for (int s = 0; s < 4; ++s) strand[s] += x[k + s] * x[k + s];
    for (; k < n; ++k) strand[0] += x[k] * x[k];
    return (strand[0] + strand[1]) + (strand[2] + strand[3]);
}

// Reduces n x n matrices, packed by rows of the lower triangle, from the last row up; `packed` is used up. Rows should
// be in ascending order of size: the reduction then keeps the digits of small eigenvalues.
template <class V> void reduce(V *packed, int n, Tridiagonal<V> &t) {
    // Shorter rows count as zero: squares that the format can't hold would make the reflection not orthogonal.
    const V tiny = broadcast<V>(sizeof(Scalar<V>) == 4 ? Scalar<V>(1e-28) : Scalar<V>(1e-288));
    const V one = broadcast<V>(1);
    for (int i = n - 1; i >= 1; --i) {
        const bool pending = i < n - 1;
        V *row = packed + packed_size(i);
        if (pending) {
            const V vi = t.v[i], wi = t.w[i];
            for (int k = 0; k <= i; ++k) row[k] = row[k] - vi * t.w[k] - wi * t.v[k];
        }
        t.diagonal[i] = row[i];
        const V squared = sum_of_squares(row, i);
        t.off_squared[i] = squared;
        const V last = row[i - 1];
        const V norm = square_root(squared);
        const V signed_norm = last < 0 ? -norm : norm;
        const V h = squared + last * signed_norm;  // |u|^2 / 2
        const V inverse = h > tiny ? one / h : V{};
        for (int k = 0; k < i; ++k) {
            t.u[k] = row[k];
            t.p[k] = V{};
        }
        t.u[i - 1] = last + signed_norm;
        if (pending)
            sweep<true>(packed, i, t);
        else
            sweep<false>(packed, i, t);
        V along = V{};
        for (int k = 0; k < i; ++k) {
            t.p[k] *= inverse;
            along += t.u[k] * t.p[k];
        }
        const V shift = broadcast<V>(Scalar<V>(0.5)) * along * inverse;
        for (int k = 0; k < i; ++k) {
            t.v[k] = t.u[k];
            t.w[k] = t.p[k] - shift * t.u[k];
        }
    }
    // n > 1: the last step's update of the first row is still pending
    t.diagonal[0] = n > 1 ? packed[0] - 2 * t.v[0] * t.w[0] : packed[0];
    t.off_squared[0] = V{};
}

}  // namespace SECATEURS_ISA
