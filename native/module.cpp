// The Python module secateurs._kernel: picks the best instruction set, shares tiles out among threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "pairs.hpp"

namespace nb = nanobind;

#if defined(SECATEURS_HAVE_AVX512)
namespace avx512 { extern const InstructionSet instructions; }
#endif
#if defined(SECATEURS_HAVE_AVX2)
namespace avx2 { extern const InstructionSet instructions; }
#endif
namespace generic { extern const InstructionSet instructions; }

namespace {

std::vector<const InstructionSet *> usable() {
    std::vector<const InstructionSet *> found;
#if defined(SECATEURS_HAVE_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        found.push_back(&avx512::instructions);
#endif
#if defined(SECATEURS_HAVE_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::instructions);
#endif
    found.push_back(&generic::instructions);
    return found;
}

const InstructionSet &find(const std::string &name) {
    for (const InstructionSet *set : usable())
        if (name.empty() || name == set->name) return *set;
    throw std::invalid_argument("this machine has no instruction set '" + name + "'");
}

// Runs `work` in that many threads and waits; the first exception of a thread is thrown again here.
template <class Work> void in_threads(int count, Work work) {
    if (count < 1) throw std::invalid_argument("threads must be at least 1");
    const nb::gil_scoped_release release;
    std::exception_ptr failure;
    std::mutex mutex;
    const auto guarded = [&] {
        try {
            work();
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    try {
        for (int i = 1; i < count; ++i) others.emplace_back(guarded);
    } catch (const std::system_error &) {
        // fewer threads than asked for do the same work
    }
    guarded();
    for (std::thread &thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
}

template <class T, int D> using In = nb::ndarray<const T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
template <class T, int D> using Out = nb::ndarray<T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char *what) {
    if (!holds) throw std::invalid_argument(what);
}

Fit make_fit(const In<double, 1> &shifts, const In<double, 1> &coefficients) {
    const int count = int(shifts.shape(0));
    require(count > 0 && count % 4 == 0 && coefficients.shape(0) == shifts.shape(0) + 2,
            "a fit has 4 m shifts and 4 m + 2 coefficients");
    return {shifts.data(), coefficients.data(), count, coefficients(count), coefficients(count + 1)};
}

template <class A, class B, class C> bool is_grid(const A &out, const B &a, const C &b) {
    return out.shape(0) == a.shape(0) && out.shape(1) == b.shape(0);
}

void low_rank(In<float, 3> a, In<float, 2> spectrum_a, In<float, 3> b, In<float, 2> spectrum_b, bool triangle,
              float smallest, int most_features, In<double, 1> shifts, In<double, 1> coefficients, int threads,
              Out<double, 2> loss, Out<float, 2> trace, Out<uint8_t, 2> status, const std::string &isa) {
    const InstructionSet &set = find(isa);
    require(a.shape(1) == b.shape(1) && a.shape(1) > 0 && a.shape(2) > 0 && b.shape(2) > 0, "features: wrong shape");
    require(spectrum_a.shape(0) == a.shape(0) && spectrum_a.shape(1) == a.shape(2), "spectrum_a: wrong shape");
    require(spectrum_b.shape(0) == b.shape(0) && spectrum_b.shape(1) == b.shape(2), "spectrum_b: wrong shape");
    require(is_grid(loss, a, b) && is_grid(trace, a, b) && is_grid(status, a, b), "results: wrong shape");
    require(most_features > 0, "most_features must be above 0");
    const auto as_features = [](const In<float, 3> &x, const In<float, 2> &spectrum) {
        return Features{x.data(), spectrum.data(), int(x.shape(0)), int(x.shape(2))};
    };
    const LowRankTask task{as_features(a, spectrum_a), as_features(b, spectrum_b), int(a.shape(1)), triangle, smallest,
                           most_features, make_fit(shifts, coefficients), loss.data(), trace.data(), status.data()};
    Dealer dealer{0};
    in_threads(threads, [&] { set.low_rank(task, dealer); });
}

void full(In<float, 2> a, In<float, 2> b, int rows, bool triangle, In<double, 1> shifts, In<double, 1> coefficients,
          int threads, Out<double, 2> loss, Out<uint8_t, 2> status, const std::string &isa) {
    const InstructionSet &set = find(isa);
    const size_t size = size_t(rows) * (rows + 1) / 2;
    require(rows > 0 && a.shape(1) == size && b.shape(1) == size, "Gram matrices: wrong shape");
    require(is_grid(loss, a, b) && is_grid(status, a, b), "results: wrong shape");
    const FullTask task{a.data(), b.data(), int(a.shape(0)), int(b.shape(0)), rows, triangle,
                        make_fit(shifts, coefficients), loss.data(), status.data()};
    Dealer dealer{0};
    in_threads(threads, [&] { set.full(task, dealer); });
}

void spectra(In<double, 2> a, In<double, 2> b, int rows, In<int32_t, 2> pairs, int threads, Out<double, 2> values,
             const std::string &isa) {
    const InstructionSet &set = find(isa);
    const size_t size = size_t(rows) * (rows + 1) / 2;
    require(rows > 0 && a.shape(1) == size && b.shape(1) == size, "Gram matrices: wrong shape");
    require(pairs.shape(1) == 2 && values.shape(0) == pairs.shape(0) && values.shape(1) == size_t(rows),
            "pairs or values: wrong shape");
    for (size_t i = 0; i < pairs.shape(0); ++i)
        require(pairs(i, 0) >= 0 && size_t(pairs(i, 0)) < a.shape(0) && pairs(i, 1) >= 0 &&
                    size_t(pairs(i, 1)) < b.shape(0),
                "pairs: no such neuron");
    const SpectraTask task{a.data(), b.data(), rows, pairs.data(), int(pairs.shape(0)), values.data()};
    Dealer dealer{0};
    in_threads(threads, [&] { set.spectra(task, dealer); });
}

void guttman(In<float, 2> wanted, In<float, 3> points, int threads, Out<float, 3> moved, Out<double, 1> crossed,
             const std::string &isa) {
    const InstructionSet &set = find(isa);
    require(wanted.shape(0) == points.shape(1) && wanted.shape(1) == points.shape(1), "wanted: wrong shape");
    require(points.shape(2) > 0 && points.shape(2) <= size_t(MOST_DIMENSIONS), "points: 1 to 16 dimensions");
    for (int axis = 0; axis < 3; ++axis) require(moved.shape(axis) == points.shape(axis), "moved: wrong shape");
    require(crossed.shape(0) == points.shape(0), "crossed: wrong shape");
    const ScalingTask task{wanted.data(),        points.data(), int(points.shape(0)), int(points.shape(1)),
                           int(points.shape(2)), moved.data(),  crossed.data()};
    Dealer dealer{0};
    in_threads(threads, [&] { set.guttman(task, dealer); });
}

}  // namespace

NB_MODULE(_kernel, m) {
    using nb::literals::operator""_a;
    m.doc() = "Joint Gram matrices of all pairs of neurons, and metric scaling. See _kernel.pyi.";
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const InstructionSet *set : usable()) names.emplace_back(set->name);
        return names;
    });
    m.def("low_rank", &low_rank, "a"_a, "spectrum_a"_a, "b"_a, "spectrum_b"_a, nb::kw_only(), "triangle"_a,
          "smallest"_a, "most_features"_a, "shifts"_a, "coefficients"_a, "threads"_a, "loss"_a, "trace"_a, "status"_a,
          "isa"_a = "");
    m.def("full", &full, "a"_a, "b"_a, nb::kw_only(), "rows"_a, "triangle"_a, "shifts"_a, "coefficients"_a, "threads"_a,
          "loss"_a, "status"_a, "isa"_a = "");
    m.def("spectra", &spectra, "a"_a, "b"_a, nb::kw_only(), "rows"_a, "pairs"_a, "threads"_a, "values"_a, "isa"_a = "");
    m.def("guttman", &guttman, "wanted"_a, "points"_a, nb::kw_only(), "threads"_a, "moved"_a, "crossed"_a,
          "isa"_a = "");
    m.def("multiply_adds", [](long rounds, const std::string &isa) { return find(isa).multiply_adds(rounds); },
          "rounds"_a, "isa"_a = "", "Busy work that shows a core's peak: rounds x 20 x lanes float32 multiply-adds.");
}
