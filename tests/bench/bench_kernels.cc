// Times the engine's kernels against what bounds them, measured in turn with them: a copy of memory
// for what moves bytes, matrix products for an evaluation. See README.md.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "tests/bench/matrix_products.h"
#include "tests/bench/random_decoder.h"
#include "tests/bench/stopwatch.h"
#include "torch/utils.h"
#include "worker/engine/eval/perplexity.h"
#include "worker/engine/model/host_memory.h"
#include "worker/engine/model/threads.h"
#include "worker/engine/pack/bit_packing.h"
#include "worker/engine/quant/rounding.h"

namespace teq::bench {
namespace {

using torch::Tensor;

constexpr std::int64_t kRows = 4096;
constexpr std::int64_t kColumns = 4096;
constexpr std::int64_t kGroupSize = 128;

/// Copies memory with all threads.
void Copy(const Tensor& source, const Tensor& target) {
  const auto* from = static_cast<const char*>(source.data_ptr());
  auto* to = static_cast<char*>(target.data_ptr());
  at::parallel_for(0, static_cast<std::int64_t>(source.nbytes()), 1 << 20,
                   [&](std::int64_t begin, std::int64_t end) {
                     std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
                   });
}

/// What a kernel and its limit took, and how much of the limit's rate the kernel reaches.
class Comparison {
 public:
  void Add(const Duration& kernel, const Duration& limit) {
    kernel_.push_back(kernel);
    limit_.push_back(limit);
  }

  /// `work`: the kernel's, in units of the limit's.
  void Report(benchmark::State& state, double work) const {
    const Duration kernel = Median(kernel_);
    const Duration limit = Median(limit_);
    state.counters["share_of_limit"] = work * limit.wall / kernel.wall;
    state.counters["cpu_share_of_limit"] = work * limit.cpu / kernel.cpu;
    state.counters["limit_seconds"] = limit.wall;
  }

 private:
  std::vector<Duration> kernel_;
  std::vector<Duration> limit_;
};

Duration Time(const std::function<void()>& work) {
  const Stopwatch stopwatch;
  work();
  return stopwatch.Elapsed();
}

/// Compares with a copy of `copied` bytes, which moves twice as many; the kernel moves `moved`.
void CompareWithCopy(benchmark::State& state, std::int64_t moved, std::int64_t copied,
                     const std::function<void()>& kernel) {
  const Tensor source = torch::ones({copied}, torch::kUInt8);
  const Tensor target = torch::zeros({copied}, torch::kUInt8);
  kernel();
  Comparison comparison;
  for ([[maybe_unused]] auto unused : state) {
    const Duration limit = Time([&] { Copy(source, target); });
    const Duration duration = Time(kernel);
    comparison.Add(duration, limit);
    state.SetIterationTime(duration.wall);
  }
  state.SetBytesProcessed(state.iterations() * moved);
  comparison.Report(state, static_cast<double>(moved) / static_cast<double>(2 * copied));
}

quant::RoundingOperand Operand() {
  return {torch::randn({kRows, kColumns}), torch::rand({kColumns}) + 0.5, torch::ones({kRows}), {}};
}

void FakeQuantizeForward(benchmark::State& state) {
  const quant::RoundingOperand operand = Operand();
  const LayerGrid grid{true, static_cast<int>(state.range(0)), kGroupSize, false};
  const std::int64_t bytes = operand.weight.numel() * 4;
  CompareWithCopy(state, 2 * bytes, bytes, [&] { (void)quant::RoundOnCpu(operand, grid); });
}

void FakeQuantizeGradient(benchmark::State& state) {
  const quant::RoundingOperand operand = Operand();
  const Tensor upstream = torch::randn({kRows, kColumns});
  const LayerGrid grid{true, static_cast<int>(state.range(0)), kGroupSize, false};
  const std::int64_t bytes = operand.weight.numel() * 4;
  CompareWithCopy(state, 2 * bytes, bytes,
                  [&] { (void)quant::GradientOnCpu(operand, upstream, grid, /*full=*/true); });
}

using Pack = Tensor (*)(const Tensor&, int);

void Packing(benchmark::State& state, Pack pack) {
  const int bits = static_cast<int>(state.range(0));
  const Tensor codes = torch::randint(1 << bits, {kRows, kColumns}, torch::kUInt8);
  const std::int64_t read = codes.numel();
  CompareWithCopy(state, read + read * bits / 8, read, [&] { (void)pack(codes, bits); });
}

/// Perplexity of the shape "15m" on windows of 256 tokens; the head counts.
void Evaluation(benchmark::State& state) {
  const model_info::ModelConfig config = *ShapeConfig("15m");
  const model::Decoder decoder = RandomDecoder(config);
  text::Windows windows{.count = 8, .length = 256};
  const Tensor ids = torch::randint(config.vocabulary_size, {8 * 256}, torch::kInt32);
  windows.ids.assign(ids.data_ptr<std::int32_t>(), ids.data_ptr<std::int32_t>() + ids.numel());
  const MatrixProducts products =
      MatrixProducts::OfEvaluation(config, ids.numel(), torch::kFloat32);
  const std::atomic<bool> cancelled{false};
  Comparison comparison;
  for ([[maybe_unused]] auto unused : state) {
    const Duration limit = products.Measure();
    const Duration duration = Time([&] {
      (void)eval::Evaluate(
          decoder, nullptr, windows, [](std::int64_t, std::int64_t) {}, cancelled);
    });
    comparison.Add(duration, limit);
    state.SetIterationTime(duration.wall);
  }
  state.SetItemsProcessed(state.iterations() * ids.numel());
  comparison.Report(state, 1);
}

BENCHMARK(FakeQuantizeForward)->Arg(4)->Arg(3)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(FakeQuantizeGradient)->Arg(4)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Packing, Rows, pack::PackRows)
    ->Arg(4)
    ->Arg(3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(Packing, Columns, pack::PackColumns)
    ->Arg(4)
    ->Arg(3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(Evaluation)->Iterations(7)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace teq::bench

/// TEQ_BENCH_THREADS: threads of the kernels, 2 without it.
int main(int argc, char** argv) {
  if (std::getenv("TEQ_BENCH_RESTARTED") == nullptr) {
    // The libraries read their settings when they are loaded.
    setenv("TEQ_BENCH_RESTARTED", "1", 1);
    teq::model::SetSleepingThreads();
    execv("/proc/self/exe", argv);
  }
  const char* threads = std::getenv("TEQ_BENCH_THREADS");
  teq::model::SetThreads(threads != nullptr ? std::stoi(threads) : 2);
  const teq::model::AllFreedMemoryKept kept;  // as in a training
  // JSON unless the command line asks for another format.
  std::string format = "--benchmark_format=json";
  std::vector<char*> arguments = {argv[0], format.data()};
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return EXIT_FAILURE;
  benchmark::RunSpecifiedBenchmarks();
  return EXIT_SUCCESS;
}
