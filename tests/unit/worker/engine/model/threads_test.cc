#include "worker/engine/model/threads.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

#include "ATen/Parallel.h"
#include "tests/unit/worker/engine/model/tiny_decoder.h"
#include "worker/engine/model/head_loss.h"
#include "worker/engine/quant/rounding.h"

namespace teq::model {
namespace {

using torch::Tensor;

class ThreadsTest : public testing::Test {
 protected:
  ~ThreadsTest() override { SetThreads(before_); }

  const int before_ = at::get_num_threads();
};

// Compiled without OpenMP, LibTorch's loop is a plain one, and nothing says so. The thread
// sanitizer does not know OpenMP, so its build has that loop.
#ifdef __SANITIZE_THREAD__
constexpr std::size_t kLoopThreads = 1;
#else
constexpr std::size_t kLoopThreads = 3;
#endif

TEST_F(ThreadsTest, OurLoopsRunOnAllOfThem) {
  SetThreads(3);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 3, 1, [&](std::int64_t /*begin*/, std::int64_t /*end*/) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads.size(), kLoopThreads);
}

TEST_F(ThreadsTest, GradientsDoNotDependOnTheirNumber) {
  torch::manual_seed(1);
  const quant::RoundingOperand operand{torch::randn({301, 64}),
                                       torch::rand({64}) + 0.5,
                                       torch::rand({301}) + 0.5,
                                       {{torch::ones({301, 2}), torch::ones({301, 2})}, {}}};
  const Tensor upstream = torch::randn({301, 64});
  const LayerGrid grid = {true, 3, 32, false};
  const auto gradients = [&](int threads) {
    SetThreads(threads);
    return quant::GradientOnCpu(operand, upstream, grid, /*full=*/true);
  };
  const quant::RoundingGradients one = gradients(1);
  const quant::RoundingGradients three = gradients(3);
  EXPECT_TRUE(torch::equal(one.columns, three.columns));
  EXPECT_TRUE(torch::equal(one.rows, three.rows));
  EXPECT_TRUE(torch::equal(one.adjustment.clip.low, three.adjustment.clip.low));
}

// But for the order in which a product's sums are rounded, which is the matrix library's affair: on
// some processors it splits them by the threads.
TEST_F(ThreadsTest, AttentionAndTheHeadDoNotDependOnTheirNumber) {
  const Decoder decoder = TinyDecoder(1);
  const Tensor ids = torch::arange(8 * 24).remainder(64).view({8, 24});
  const BlockRunner runner(decoder, ids.size(1));
  const auto with = [&](int threads) {
    SetThreads(threads);
    const Tensor states = runner.Embed(ids).requires_grad_(true);
    const Tensor last = runner.Finish(runner.Run(decoder.blocks[0], states)).slice(1, 0, -1);
    const Tensor loss = HeadCrossEntropy(decoder, last, ids.slice(1, 1).flatten());
    loss.backward();
    return std::pair(loss.detach(), states.grad());
  };
  const auto one = with(1);
  const auto three = with(3);
  EXPECT_TRUE(torch::allclose(one.first, three.first, 1e-6, 0));
  EXPECT_TRUE(torch::allclose(one.second, three.second, 1e-5, 1e-7));
}

}  // namespace
}  // namespace teq::model
