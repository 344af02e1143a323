// One iteration of SMACOF for several configurations of points. Arrays are C-contiguous; K points in p dimensions.
#pragma once

// moved = B X / K, the Guttman transform, and crossed = <X, B X>, the sum over pairs of wanted x found distance.
struct ScalingTask {
    const float *wanted;  // (K, K), symmetric, zero diagonal
    const float *points;  // (S, K, p)
    int starts, neurons, dimensions;
    float *moved;     // (S, K, p)
    double *crossed;  // (S,)
};

constexpr int MOST_DIMENSIONS = 16;
