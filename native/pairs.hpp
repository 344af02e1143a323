// What the instruction sets offer to the Python module. Arrays are C-contiguous; K neurons, n rows, T = n (n + 1) / 2.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "scaling.hpp"

// F(x) ~ sum_j coefficients[j] log(1 + x / shifts[j]) + linear x + quadratic x^2; count is a multiple of 4.
struct Fit {
    const double *shifts;
    const double *coefficients;
    int count;
    double linear, quadratic;
};

// Low-rank features of a block of neurons: feature a of neuron k has eigenvalue spectrum[k, a], descending.
struct Features {
    const float *values;    // (K, n, rank), columns sqrt(n) times eigenvector times sqrt(eigenvalue)
    const float *spectrum;  // (K, rank), eigenvalues of Gram / n
    int neurons, rank;
};

// Joint Gram matrices of the neurons of block a with those of block b, from low-rank features.
struct LowRankTask {
    Features a, b;
    int rows;
    bool triangle;        // a and b are one block: only pairs k <= l are wanted
    float smallest;       // products of features below this eigenvalue are left out
    int most_features;    // pairs that need more stay UNDONE
    Fit fit;
    double *loss;         // (Ka, Kb) trace of F
    float *trace;         // (Ka, Kb) trace of what was kept, of 1
    uint8_t *status;      // (Ka, Kb)
};

// The same from whole Gram matrices, where status is UNDONE.
struct FullTask {
    const float *a, *b;  // (Ka, T), (Kb, T), lower triangle by rows, diagonal 1
    int neurons_a, neurons_b, rows;
    bool triangle;
    Fit fit;
    double *loss;
    uint8_t *status;
};

// Eigenvalues of the joint Gram / n of single pairs, all in float64.
struct SpectraTask {
    const double *a, *b;  // (Ka, T), (Kb, T)
    int rows;
    const int32_t *pairs;  // (M, 2)
    int count;
    double *values;  // (M, n)
};

enum Status : uint8_t { UNDONE = 0, DONE = 1, FLAGGED = 2 };

// Each works through tiles that the counter deals out, until none is left or `stop` is set; several threads may call it.
using Dealer = std::atomic<int>;
struct InstructionSet {
    const char *name;
    void (*low_rank)(const LowRankTask &, Dealer &);
    void (*full)(const FullTask &, Dealer &);
    void (*spectra)(const SpectraTask &, Dealer &);
    void (*guttman)(const ScalingTask &, Dealer &);
    double (*multiply_adds)(long rounds);
};
