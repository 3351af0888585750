#include "client/cache/fetcher.h"

#include <condition_variable>
#include <mutex>

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/client/cache/cache_test_base.h"

namespace teq::cache {
namespace {

using ::testing::ElementsAre;

/// Reads of a store that wait until they are let through, and the offsets that they were for.
class Gate {
 public:
  absl::Status Pass(std::uint64_t offset) {
    std::unique_lock lock(mutex_);
    offsets_.push_back(offset);
    changed_.notify_all();
    changed_.wait(lock, [this] { return is_open_; });
    return absl::OkStatus();
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void WaitForReads(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return offsets_.size() >= count; });
  }
  std::vector<std::uint64_t> offsets() {
    const std::lock_guard lock(mutex_);
    return offsets_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> offsets_;
  bool is_open_ = false;
};

class FetcherTest : public CacheTestBase {
 protected:
  std::shared_ptr<CachedFile> Admit(const Source& source) {
    Cache cache(OptionsOf(100'000));
    const auto files = cache.Admit("model", {source}, Go);
    EXPECT_TRUE(files.ok()) << files.status();
    return files->front();
  }
  std::shared_ptr<CachedFile> Admit(const std::string& key, std::string content) {
    return Admit(Put(key, std::move(content)));
  }
};

TEST_F(FetcherTest, RangeFetchesTheChunksThatItTouchesAndNoOthers) {
  Fetcher fetcher(4);
  const auto file = Admit("weights", std::string(10 * kChunk, 'w'));
  const std::size_t number = fetcher.Add(file);
  ASSERT_TRUE(fetcher.EnsureRange(number, 0, 0, GoOn).ok());
  EXPECT_EQ(store_->reads(), 0);
  ASSERT_TRUE(fetcher.EnsureRange(number, 2 * kChunk - 1, 2, GoOn).ok());
  EXPECT_EQ(store_->reads(), 2);
  ASSERT_TRUE(fetcher.EnsureRange(number, kChunk, kChunk, GoOn).ok());
  EXPECT_EQ(store_->reads(), 2);
  ASSERT_TRUE(fetcher.EnsureRange(number, 9 * kChunk, 1'000'000, GoOn).ok());
  EXPECT_EQ(store_->reads(), 3);
}

TEST_F(FetcherTest, WaitEndsWhenItIsToldToWhileTheStoreStillBlocks) {
  Gate gate;
  store_->before_read = [&](std::uint64_t offset) { return gate.Pass(offset); };
  Fetcher fetcher(1);
  const std::size_t number = fetcher.Add(Admit("weights", std::string(kChunk, 'w')));
  const absl::Status status = fetcher.EnsureRange(
      number, 0, 1, [](std::uint64_t, std::uint64_t) { return absl::CancelledError("stop"); });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  gate.Open();
}

TEST_F(FetcherTest, WhatSomebodyWaitsForComesBeforeThePrefetch) {
  Gate gate;
  store_->before_read = [&](std::uint64_t offset) { return gate.Pass(offset); };
  Fetcher fetcher(1);
  const std::size_t number = fetcher.Add(Admit("weights", std::string(4 * kChunk, 'w')));
  fetcher.Prefetch();
  gate.WaitForReads(1);
  bool asked = false;
  ASSERT_TRUE(fetcher
                  .EnsureRange(number, 3 * kChunk, 1,
                               [&](std::uint64_t, std::uint64_t) {
                                 if (!asked) gate.Open();
                                 asked = true;
                                 return absl::OkStatus();
                               })
                  .ok());
  ASSERT_TRUE(fetcher.EnsureRange(number, 0, 4 * kChunk, GoOn).ok());
  EXPECT_THAT(gate.offsets(), ElementsAre(0, 3 * kChunk, kChunk, 2 * kChunk));
}

TEST_F(FetcherTest, PrefetchBringsEverythingOnce) {
  Fetcher fetcher(3);
  const std::size_t one = fetcher.Add(Admit("one", std::string(5 * kChunk, '1')));
  const std::size_t two = fetcher.Add(Admit("two", "abc"));
  fetcher.Prefetch();
  // From FIPS 180-2.
  EXPECT_EQ(fetcher.Sha256(two, GoOn).value(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_TRUE(fetcher.Sha256(one, GoOn).ok());
  EXPECT_EQ(store_->reads(), 6);
}

TEST_F(FetcherTest, ProgressCountsTheBytesOfAllFiles) {
  Gate gate;
  store_->before_read = [&](std::uint64_t offset) {
    return offset == 0 ? absl::OkStatus() : gate.Pass(offset);
  };
  Fetcher fetcher(1);
  const std::size_t number = fetcher.Add(Admit("weights", std::string(kChunk + 4, 'w')));
  fetcher.Add(Admit("more", std::string(100, 'm')));
  std::uint64_t seen_done = 0;
  std::uint64_t seen_total = 0;
  ASSERT_TRUE(fetcher
                  .EnsureRange(number, 0, kChunk + 4,
                               [&](std::uint64_t done, std::uint64_t total) {
                                 seen_done = done;
                                 seen_total = total;
                                 if (done == kChunk) gate.Open();
                                 return absl::OkStatus();
                               })
                  .ok());
  EXPECT_GE(seen_done, kChunk);
  EXPECT_EQ(seen_total, kChunk + 4 + 100);
}

TEST_F(FetcherTest, ErrorReachesWhoWaitsAndTheNextCallTriesAnew) {
  bool fails = true;
  store_->before_read = [&](std::uint64_t offset) {
    return fails && offset == kChunk
               ? Error(absl::StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE", "down")
               : absl::OkStatus();
  };
  Fetcher fetcher(1);
  const std::size_t number = fetcher.Add(Admit("weights", std::string(3 * kChunk, 'w')));
  EXPECT_EQ(ErrorReason(fetcher.EnsureRange(number, 0, 3 * kChunk, GoOn)),
            "OBJECT_STORE_UNAVAILABLE");
  fails = false;
  EXPECT_TRUE(fetcher.EnsureRange(number, 0, 3 * kChunk, GoOn).ok());
}

TEST_F(FetcherTest, WrongDigestReachesWhoeverAsksForBytesOfTheFileFromThenOn) {
  Source source = Put("wrong", std::string(2 * kChunk, 'w'));
  source.object.sha256 = std::string(64, 'a');
  Fetcher fetcher(1);
  const std::size_t wrong = fetcher.Add(Admit(source));
  const std::size_t next = fetcher.Add(Admit("next", "abc"));
  fetcher.Prefetch();
  // Whether the digest is taken before this call returns is open.
  fetcher.EnsureRange(wrong, 0, 2 * kChunk, GoOn).IgnoreError();
  // The one thread takes digests in the order of the files.
  ASSERT_TRUE(fetcher.Sha256(next, GoOn).ok());
  EXPECT_EQ(ErrorReason(fetcher.EnsureRange(wrong, 0, 1, GoOn)), "OBJECT_CORRUPT");
  EXPECT_EQ(ErrorReason(fetcher.Sha256(wrong, GoOn).status()), "OBJECT_CORRUPT");
  EXPECT_TRUE(fetcher.EnsureRange(next, 0, 1, GoOn).ok());
}

TEST_F(FetcherTest, EndsInTheMiddleOfAPrefetch) {
  Gate gate;
  store_->before_read = [&](std::uint64_t offset) { return gate.Pass(offset); };
  {
    Fetcher fetcher(2);
    fetcher.Add(Admit("weights", std::string(100 * kChunk, 'w')));
    fetcher.Prefetch();
    gate.WaitForReads(2);
    gate.Open();
  }
  EXPECT_LT(store_->reads(), 100);
}

}  // namespace
}  // namespace teq::cache
