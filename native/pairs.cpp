// All pairs of neurons, one pair a SIMD lane. Compiled once for each instruction set (SECATEURS_ISA names it).
#include "pairs.hpp"

#include <algorithm>

#include "eigenvalues.hpp"
#include "lanes.hpp"
#include "trace.hpp"
#include "tridiagonal.hpp"

namespace SECATEURS_ISA {

constexpr int L = LANES<Floats>;
constexpr int PARTS = LANES<Floats> / LANES<Doubles>;
constexpr int RUN = 64;               // neurons of block a that share one rearranged group of block b
constexpr int STRIP_BYTES = 1 << 15;  // of joint features, about what the first cache holds

inline int groups_of(int neurons) { return (neurons + L - 1) / L; }

// Neurons of a group beyond the last stand in for it: their lanes are computed and thrown away.
inline int neuron_of(int group, int lane, int neurons) { return std::min(group * L + lane, neurons - 1); }

inline void interleave(const float *values, size_t count, int group, int neurons, Floats *out) {
    for (int lane = 0; lane < L; ++lane) {
        const float *from = values + count * neuron_of(group, lane, neurons);
        float *to = reinterpret_cast<float *>(out) + lane;
        for (size_t i = 0; i < count; ++i) to[i * L] = from[i];
    }
}

// The trace of the fit for a tile of float matrices of trace n.
struct Traces {
    double loss[L];
    float trace[L];
    bool flagged[L];
};

class TraceOfTile {
  public:
    explicit TraceOfTile(int most_rows) : memory_(2 * size_t(most_rows)) {}

    void operator()(const Tridiagonal<Floats> &t, int n, double unit, const Fit &fit, Traces &out) {
        Doubles *diagonal = memory_.get(), *off_squared = diagonal + n;
        constexpr int D = LANES<Doubles>;
        for (int part = 0; part < PARTS; ++part) {
            Doubles trace{};
            for (int i = 0; i < n; ++i) {
                for (int lane = 0; lane < D; ++lane) {
                    diagonal[i][lane] = t.diagonal[i][part * D + lane];
                    off_squared[i][lane] = t.off_squared[i][part * D + lane];
                }
                diagonal[i] *= unit;
                off_squared[i] *= unit * unit;
                trace += diagonal[i];
            }
            Masks flagged{};
            const Doubles loss = trace_of_fit(diagonal, off_squared, n, fit, flagged);
            for (int lane = 0; lane < D; ++lane) {
                out.loss[part * D + lane] = loss[lane];
                out.trace[part * D + lane] = float(trace[lane]);
                out.flagged[part * D + lane] = flagged[lane] != 0;
            }
        }
    }

  private:
    Buffer<Doubles> memory_;
};

// ---- low rank ------------------------------------------------------------------------------------------------------

// Products of feature columns that are large enough in some lane, smallest first.
struct Products {
    std::unique_ptr<int[]> first, second;
    int count = 0;

    explicit Products(int most) : first(new int[most]), second(new int[most]) {}

    bool choose(const float *a, int rank_a, const float *b, int rank_b, float smallest, int most) {
        count = 0;
        for (int i = rank_a - 1; i >= 0; --i)
            for (int j = rank_b - 1; j >= 0; --j) {
                if (a[i] * b[j] < smallest) continue;
                if (count == most) return false;
                first[count] = i;
                second[count++] = j;
            }
        return true;
    }
};

// Adds x' x to the packed Gram of the features, `count` columns (padded to a multiple of 4), for some rows.
inline void add_gram(const Floats *x, int rows, int columns, Floats *packed) {
    for (int p = 0; p < columns; p += ROWS)
        for (int q = 0; q <= p; q += ROWS) {
            Floats sum[ROWS][ROWS];
            for (int r = 0; r < ROWS; ++r)
                for (int s = 0; s < ROWS; ++s) sum[r][s] = Floats{};
            const Floats *left = x + p, *right = x + q;
            for (int i = 0; i < rows; ++i, left += columns, right += columns)
                for (int r = 0; r < ROWS; ++r)
                    for (int s = 0; s < ROWS; ++s) sum[r][s] += left[r] * right[s];
            for (int r = 0; r < ROWS; ++r) {
                Floats *row = packed + packed_size(p + r) + q;
                for (int s = 0; s < ROWS && q + s <= p + r; ++s) row[s] += sum[r][s];
            }
        }
}

void low_rank(const LowRankTask &task, Dealer &dealer) {
    const FlushToZero flush;
    const Features &a = task.a, &b = task.b;
    const int n = task.rows, groups = groups_of(b.neurons), runs = (a.neurons + RUN - 1) / RUN;
    const int widest = (task.most_features + ROWS - 1) / ROWS * ROWS;
    Products products(task.most_features);
    Tridiagonal<Floats> tridiagonal(widest);
    TraceOfTile trace_of_tile(widest);
    Traces traces;
    Buffer<Floats> others(size_t(n) * b.rank), packed(packed_size(widest));
    Buffer<Floats> joint(std::max(ROWS * widest, STRIP_BYTES / BYTES));
    std::unique_ptr<float[]> largest(new float[b.rank]);

    for (int unit = dealer++; unit < groups * runs; unit = dealer++) {
        const int group = unit / runs, start = unit % runs * RUN, stop = std::min(start + RUN, a.neurons);
        if (task.triangle && group * L + L - 1 < start) continue;
        interleave(b.values, size_t(n) * b.rank, group, b.neurons, others.get());
        for (int j = 0; j < b.rank; ++j) {
            largest[j] = 0;
            for (int lane = 0; lane < L; ++lane)
                largest[j] = std::max(largest[j], b.spectrum[size_t(neuron_of(group, lane, b.neurons)) * b.rank + j]);
        }
        for (int k = start; k < stop; ++k) {
            if (task.triangle && group * L + L - 1 < k) continue;
            if (!products.choose(a.spectrum + size_t(k) * a.rank, a.rank, largest.get(), b.rank, task.smallest,
                                 task.most_features) ||
                products.count == 0)
                continue;
            const int count = products.count, columns = (count + ROWS - 1) / ROWS * ROWS;
            const int strip = std::max(ROWS, STRIP_BYTES / (BYTES * columns));
            std::fill_n(packed.get(), packed_size(columns), Floats{});
            for (int from = 0; from < n; from += strip) {
                const int rows = std::min(strip, n - from);
                for (int i = 0; i < rows; ++i) {
                    const float *left = a.values + (size_t(k) * n + from + i) * a.rank;
                    const Floats *right = others.get() + size_t(from + i) * b.rank;
                    Floats *x = joint.get() + size_t(i) * columns;
                    for (int q = 0; q < count; ++q) x[q] = left[products.first[q]] * right[products.second[q]];
                    for (int q = count; q < columns; ++q) x[q] = Floats{};
                }
                add_gram(joint.get(), rows, columns, packed.get());
            }
            reduce(packed.get(), count, tridiagonal);
            trace_of_tile(tridiagonal, count, 1.0 / n, task.fit, traces);
            for (int lane = 0; lane < L && group * L + lane < b.neurons; ++lane) {
                const size_t at = size_t(k) * b.neurons + group * L + lane;
                task.loss[at] = traces.loss[lane];
                task.trace[at] = traces.trace[lane];
                task.status[at] = traces.flagged[lane] ? FLAGGED : DONE;
            }
        }
    }
}

// ---- whole Gram matrices -------------------------------------------------------------------------------------------

void full(const FullTask &task, Dealer &dealer) {
    const FlushToZero flush;
    const int n = task.rows, groups = groups_of(task.neurons_b), runs = (task.neurons_a + RUN - 1) / RUN;
    const size_t size = packed_size(n);
    Buffer<Floats> others(size), packed(size);
    Tridiagonal<Floats> tridiagonal(n);
    TraceOfTile trace_of_tile(n);
    Traces traces;
    for (int unit = dealer++; unit < groups * runs; unit = dealer++) {
        const int group = unit / runs, start = unit % runs * RUN, stop = std::min(start + RUN, task.neurons_a);
        const int lanes = std::min(L, task.neurons_b - group * L);
        bool rearranged = false;
        for (int k = start; k < stop; ++k) {
            uint8_t *status = task.status + size_t(k) * task.neurons_b + group * L;
            double *loss = task.loss + size_t(k) * task.neurons_b + group * L;
            if (task.triangle && group * L + lanes - 1 < k) continue;
            if (std::find(status, status + lanes, UNDONE) == status + lanes) continue;
            if (!rearranged) interleave(task.b, size, group, task.neurons_b, others.get());
            rearranged = true;
            const float *gram = task.a + size * k;
            for (size_t i = 0; i < size; ++i) packed.get()[i] = gram[i] * others.get()[i];
            reduce(packed.get(), n, tridiagonal);
            trace_of_tile(tridiagonal, n, 1.0 / n, task.fit, traces);
            for (int lane = 0; lane < lanes; ++lane) {
                if (status[lane] != UNDONE) continue;
                loss[lane] = traces.loss[lane];
                status[lane] = traces.flagged[lane] ? FLAGGED : DONE;
            }
        }
    }
}

// ---- float64 eigenvalues -------------------------------------------------------------------------------------------

void spectra(const SpectraTask &task, Dealer &dealer) {
    const FlushToZero flush;
    constexpr int D = LANES<Doubles>;
    const int n = task.rows, tiles = (task.count + D - 1) / D;
    const size_t size = packed_size(n);
    Buffer<Doubles> packed(size);
    Buffer<double> off(n);
    Tridiagonal<Doubles> tridiagonal(n);
    for (int tile = dealer++; tile < tiles; tile = dealer++) {
        for (int lane = 0; lane < D; ++lane) {
            const int32_t *pair = task.pairs + 2 * size_t(std::min(tile * D + lane, task.count - 1));
            const double *a = task.a + size * pair[0], *b = task.b + size * pair[1];
            double *to = reinterpret_cast<double *>(packed.get()) + lane;
            for (size_t i = 0; i < size; ++i) to[i * D] = a[i] * b[i];
        }
        reduce(packed.get(), n, tridiagonal);
        for (int lane = 0; lane < D && tile * D + lane < task.count; ++lane) {
            double *values = task.values + size_t(tile * D + lane) * n;
            for (int i = 0; i < n; ++i) {
                values[i] = tridiagonal.diagonal[i][lane] / n;
                if (i > 0) off.get()[i - 1] = std::sqrt(tridiagonal.off_squared[i][lane]) / n;
            }
            if (!find_eigenvalues(values, off.get(), n)) std::fill_n(values, n, std::nan(""));
        }
    }
}

// ---- the core's peak -----------------------------------------------------------------------------------------------

// Does rounds x 20 x lanes float32 multiply-adds that depend on nothing but themselves; returns their sum.
double multiply_adds(long rounds) {
    const FlushToZero flush;
    Floats x[20];
    for (int i = 0; i < 20; ++i) x[i] = broadcast<Floats>(1.0f + i);
    const Floats factor = broadcast<Floats>(0.999f), term = broadcast<Floats>(1e-3f);
    for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 20
        for (int i = 0; i < 20; ++i) x[i] = x[i] * factor + term;
    }
    double sum = 0;
    for (int i = 0; i < 20; ++i)
        for (int lane = 0; lane < L; ++lane) sum += x[i][lane];
    return sum;
}

#define SECATEURS_TEXT_(x) #x
#define SECATEURS_TEXT(x) SECATEURS_TEXT_(x)
void guttman(const ScalingTask &, Dealer &);  // scaling.cpp
extern const InstructionSet instructions;
const InstructionSet instructions = {SECATEURS_TEXT(SECATEURS_ISA), low_rank, full, spectra, guttman, multiply_adds};

}  // namespace SECATEURS_ISA
