#include "client/cli/transfer_view.h"

#include "client/cli/text.h"
#include "gtest/gtest.h"

namespace teq::cli {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;

TEST(TransferViewTest, LineTellsShareSizeRateAndTheRest) {
  // 1 GiB in 8 s: 128 MiB/s, and 8 s for the other one.
  EXPECT_EQ(TransferLine({.what = "pull", .done = kGiB, .total = 2 * kGiB, .seconds = 8}, 100),
            "pull  [###############---------------]   50 %  1.0 GiB of 2.0 GiB  128.0 MiB/s  8s "
            "left");
}

TEST(TransferViewTest, NothingIsLeftAtTheEnd) {
  EXPECT_EQ(TransferLine({.what = "pull", .done = 512, .total = 512, .seconds = 1}, 100),
            "pull  [##############################]  100 %  512 B of 512 B  512 B/s");
}

TEST(TransferViewTest, NarrowTerminalHasNoBarAndNoLineIsTooWide) {
  for (int width = 1; width < 120; ++width) {
    const std::string line =
        TransferLine({.what = "verify", .done = kGiB, .total = 2 * kGiB, .seconds = 8}, width);
    EXPECT_LE(Columns(line), std::max(width - 1, 1)) << width;
  }
  EXPECT_EQ(TransferLine({.what = "pull", .done = 1, .total = 2}, 30).find('['), std::string::npos);
}

}  // namespace
}  // namespace teq::cli
