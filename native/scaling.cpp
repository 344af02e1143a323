// One iteration of SMACOF. Compiled once for each instruction set (SECATEURS_ISA names it).
#include "pairs.hpp"

#include <algorithm>
#include <cstring>

#include "lanes.hpp"

namespace SECATEURS_ISA {

namespace {

constexpr int L = LANES<Floats>;
constexpr float TINY = 1e-12f;  // smallest squared distance that is divided by

inline Floats at_least(Floats x, float bound) {
    const Floats least = broadcast<Floats>(bound);
    return x > least ? x : least;
}

// 1 / sqrt(x) to 1e-7; x is at least TINY.
inline Floats reciprocal_root(Floats x) {
#if defined(__AVX512F__)
    const Floats rough = (Floats)_mm512_rsqrt14_ps((__m512)x);
    return rough * (1.5f - 0.5f * x * rough * rough);
#else
    return 1.0f / square_root(x);
#endif
}

inline float sum_of_lanes(Floats x) {
    float sum = 0;
    for (int lane = 0; lane < L; ++lane) sum += x[lane];
    return sum;
}

// A group of L points: their coordinates, and half their squared lengths.
template <int P> struct Group {
    Floats at[P], half_square;
};

// Rows of B X for ROWS points at once: the others are read once for all of them. |x - y|^2 = |x|^2 + |y|^2 - 2 x y.
template <int P, int ROWS>
void move_rows(const ScalingTask &task, const Group<P> *groups, int first, const float *points, float *moved) {
    const int whole = task.neurons / L, tail = task.neurons % L;
    const float *wanted = task.wanted + size_t(first) * task.neurons, *mine = points + size_t(first) * P;
    Floats total[ROWS] = {}, pulled[ROWS][P] = {};
    float half_square[ROWS] = {};
    for (int row = 0; row < ROWS; ++row)
        for (int d = 0; d < P; ++d) half_square[row] += 0.5f * mine[row * P + d] * mine[row * P + d];
    const auto pull = [&](const Group<P> &group, int row, Floats target) __attribute__((always_inline)) {
        Floats half = group.half_square + half_square[row];
#pragma GCC unroll 16
        for (int d = 0; d < P; ++d) half -= mine[row * P + d] * group.at[d];
        const Floats ratio = target * reciprocal_root(at_least(half + half, TINY));
        total[row] += ratio;
#pragma GCC unroll 16
        for (int d = 0; d < P; ++d) pulled[row][d] += ratio * group.at[d];
    };
    for (int group = 0; group < whole; ++group)
#pragma GCC unroll 2
        for (int row = 0; row < ROWS; ++row) {
            Floats target;
            std::memcpy(&target, wanted + size_t(row) * task.neurons + group * L, sizeof(Floats));
            pull(groups[group], row, target);
        }
    for (int row = 0; tail && row < ROWS; ++row) {
        Floats target{};  // 0 beyond the last point
        std::memcpy(&target, wanted + size_t(row) * task.neurons + whole * L, tail * sizeof(float));
        pull(groups[whole], row, target);
    }
    for (int row = 0; row < ROWS; ++row)
        for (int d = 0; d < P; ++d)
            moved[size_t(first + row) * P + d] =
                sum_of_lanes(total[row]) * mine[row * P + d] - sum_of_lanes(pulled[row][d]);
}

template <int P> void move_start(const ScalingTask &task, int start, Buffer<Floats> &memory) {
    const int neurons = task.neurons, count = (neurons + L - 1) / L;
    const float *points = task.points + size_t(start) * neurons * P;
    float *moved = task.moved + size_t(start) * neurons * P;
    Group<P> *groups = reinterpret_cast<Group<P> *>(memory.get());
    for (int group = 0; group < count; ++group) {
        groups[group].half_square = Floats{};
        for (int d = 0; d < P; ++d) {
            for (int lane = 0; lane < L; ++lane)
                groups[group].at[d][lane] = points[size_t(std::min(group * L + lane, neurons - 1)) * P + d];
            groups[group].half_square += 0.5f * groups[group].at[d] * groups[group].at[d];
        }
    }
    int row = 0;
    for (; row + 2 <= neurons; row += 2) move_rows<P, 2>(task, groups, row, points, moved);
    for (; row < neurons; ++row) move_rows<P, 1>(task, groups, row, points, moved);
    double crossed = 0;
    for (size_t i = 0; i < size_t(neurons) * P; ++i) {
        crossed += double(points[i]) * moved[i];
        moved[i] /= float(neurons);
    }
    task.crossed[start] = crossed;
}

template <int P> void move_by_dimensions(const ScalingTask &task, int start, Buffer<Floats> &memory) {
    if (task.dimensions == P) return move_start<P>(task, start, memory);
    if constexpr (P > 1) move_by_dimensions<P - 1>(task, start, memory);
}

}  // namespace

void guttman(const ScalingTask &task, Dealer &dealer) {
    const FlushToZero flush;
    Buffer<Floats> memory(size_t((task.neurons + L - 1) / L) * (task.dimensions + 1));
    for (int start = dealer++; start < task.starts; start = dealer++)
        move_by_dimensions<MOST_DIMENSIONS>(task, start, memory);
}

}  // namespace SECATEURS_ISA
