// One pair of neurons a SIMD lane: vector types of the instruction set that this file is compiled for.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace SECATEURS_ISA {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

typedef float Floats __attribute__((vector_size(BYTES)));
typedef double Doubles __attribute__((vector_size(BYTES)));
typedef int64_t Masks __attribute__((vector_size(BYTES)));

template <class V> struct Lane;
template <> struct Lane<Floats> {
    using Scalar = float;
};
template <> struct Lane<Doubles> {
    using Scalar = double;
};
template <class V> using Scalar = typename Lane<V>::Scalar;
template <class V> constexpr int LANES = BYTES / int(sizeof(Scalar<V>));

// The same number in every lane.
template <class V> inline V broadcast(Scalar<V> x) {
    return V{} + x;
}

template <class V> inline V square_root(V x) {
    V root;
    for (int lane = 0; lane < LANES<V>; ++lane) root[lane] = std::sqrt(x[lane]);
    return root;
}
#if defined(__AVX512F__)
template <> inline Floats square_root(Floats x) { return (Floats)_mm512_sqrt_ps((__m512)x); }
template <> inline Doubles square_root(Doubles x) { return (Doubles)_mm512_sqrt_pd((__m512d)x); }
#elif defined(__AVX2__)
template <> inline Floats square_root(Floats x) { return (Floats)_mm256_sqrt_ps((__m256)x); }
template <> inline Doubles square_root(Doubles x) { return (Doubles)_mm256_sqrt_pd((__m256d)x); }
#endif

// Memory of one thread, aligned for vectors and freed with its owner.
template <class T> class Buffer {
  public:
    explicit Buffer(size_t count) {
        const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        data_.reset(static_cast<T *>(std::aligned_alloc(64, bytes ? bytes : 64)));
        if (!data_) throw std::bad_alloc();
    }
    T *get() const { return data_.get(); }

  private:
    struct Free {
        void operator()(void *p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
};

// Numbers too small for the format count as zero while this lives: they are slow and carry nothing. Restored after.
class FlushToZero {
#if defined(__x86_64__)
  public:
    FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushToZero() { _mm_setcsr(before_); }
    FlushToZero(const FlushToZero &) = delete;
    FlushToZero &operator=(const FlushToZero &) = delete;

  private:
    unsigned before_;
#else
  public:
    FlushToZero() {}
#endif
};

}  // namespace SECATEURS_ISA
