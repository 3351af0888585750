#include "worker/engine/quant/cuda_kernels.h"

// Compiled without contraction, as the host's kernels (cuda.cmake).

namespace teq::quant::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kLargestBlock = 256;

/// The threads of this block.
class BlockLanes {
 public:
  __device__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ int count() const { return static_cast<int>(blockDim.x); }

  template <typename T, typename Combine>
  __device__ T All(T value, Combine combine) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
      value = combine(value, __shfl_xor_sync(0xFFFFFFFFU, value, step));
    }
    if (count() == kWarp) return value;
    __shared__ T warps[kLargestBlock / kWarp];
    if (index() % kWarp == 0) warps[index() / kWarp] = value;
    __syncthreads();
    value = warps[0];
    for (int warp = 1; warp < count() / kWarp; ++warp) value = combine(value, warps[warp]);
    __syncthreads();  // before the next use of `warps`
    return value;
  }
};

/// The groups of one block: one group's columns in kRowsPerBlock rows.
struct BlockPlace {
  std::int64_t number;  // among the blocks of the same columns
  std::int64_t start;
  std::int64_t begin;  // rows
  std::int64_t end;
};

__device__ BlockPlace PlaceOf(const Problem& problem) {
  const std::int64_t groups = problem.columns / problem.group_size;
  const std::int64_t number = blockIdx.x / groups;
  const std::int64_t begin = number * kRowsPerBlock;
  const std::int64_t end = Least()(begin + kRowsPerBlock, problem.rows);
  return {number, blockIdx.x % groups * problem.group_size, begin, end};
}

__global__ void FakeQuantizeBlock(Problem problem, float* output) {
  BlockLanes lanes;
  const BlockPlace block = PlaceOf(problem);
  for (std::int64_t row = block.begin; row < block.end; ++row) {
    FakeQuantizeGroup(problem, {row, block.start}, lanes, output);
  }
}

__global__ void FakeQuantizeGradientBlock(Problem problem, const float* upstream, bool full,
                                          Gradients gradients) {
  BlockLanes lanes;
  const BlockPlace block = PlaceOf(problem);
  const GroupGradients own{gradients.columns + block.number * problem.columns, gradients.low_factor,
                           gradients.high_factor, gradients.offset};
  for (std::int64_t row = block.begin; row < block.end; ++row) {
    const GroupPlace place{row, block.start};
    const float sum = FakeQuantizeGradientGroup(problem, place, lanes, upstream, full, own);
    if (lanes.index() == 0) gradients.rows[GroupNumber(problem, place)] = sum;
  }
}

unsigned Blocks(const Problem& problem) {
  const std::int64_t rows = (problem.rows + kRowsPerBlock - 1) / kRowsPerBlock;
  return static_cast<unsigned>(rows * (problem.columns / problem.group_size));
}

/// Usual groups are a few columns for each thread of a warp; a whole row is more.
unsigned Threads(const Problem& problem) {
  return problem.group_size < 1024 ? kWarp : kLargestBlock;
}

const char* LaunchError() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* FakeQuantize(const Problem& problem, float* output, CUstream_st* stream) {
  FakeQuantizeBlock<<<Blocks(problem), Threads(problem), 0, stream>>>(problem, output);
  return LaunchError();
}

const char* FakeQuantizeGradient(const Problem& problem, const float* upstream, bool full,
                                 const Gradients& gradients, CUstream_st* stream) {
  FakeQuantizeGradientBlock<<<Blocks(problem), Threads(problem), 0, stream>>>(problem, upstream,
                                                                              full, gradients);
  return LaunchError();
}

}  // namespace teq::quant::cuda
