#include "client/cache/cache.h"

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/client/cache/cache_test_base.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CacheTest : public CacheTestBase {
 protected:
  bool Has(const Cache& cache, const Source& source) const {
    return fs::exists(cache.EntryDirectory(source) / "bytes");
  }

  /// Admits, fetches and lets go.
  void Use(Cache& cache, const Source& source) {
    const auto files = cache.Admit("a job", {source}, Go);
    ASSERT_TRUE(files.ok()) << files.status();
    ASSERT_TRUE(FetchAll(*files->front()).ok());
  }

  std::size_t CountIn(const std::string& directory) const {
    const fs::path path = root_ / "cache" / directory;
    if (!fs::exists(path)) return 0;
    return std::distance(fs::directory_iterator(path), fs::directory_iterator());
  }
};

TEST_F(CacheTest, WhatWasUsedLeastLatelyMakesRoom) {
  Cache cache(OptionsOf(300));
  const Source a = Put("a", std::string(100, 'a'));
  const Source b = Put("b", std::string(100, 'b'));
  const Source c = Put("c", std::string(100, 'c'));
  const Source d = Put("d", std::string(150, 'd'));
  for (const Source& source : {a, b, c, a}) {
    Use(cache, source);
    Tick();
  }
  Use(cache, d);
  EXPECT_TRUE(Has(cache, a));
  EXPECT_FALSE(Has(cache, b));
  EXPECT_FALSE(Has(cache, c));
  EXPECT_TRUE(Has(cache, d));
  EXPECT_EQ(CountIn("trash"), 0);
}

TEST_F(CacheTest, NoMoreIsRemovedThanTheBoundAsksFor) {
  Cache cache(OptionsOf(300));
  const Source a = Put("a", std::string(100, 'a'));
  const Source b = Put("b", std::string(100, 'b'));
  Use(cache, a);
  Tick();
  Use(cache, b);
  Use(cache, Put("c", std::string(200, 'c')));
  EXPECT_FALSE(Has(cache, a));
  EXPECT_TRUE(Has(cache, b));
}

TEST_F(CacheTest, WhatAJobHoldsStaysHoweverOldItIs) {
  Cache cache(OptionsOf(300));
  const Source old = Put("old", std::string(200, 'o'));
  const Source young = Put("young", std::string(100, 'y'));
  const auto held = cache.Admit("the first job", {old}, Go);
  ASSERT_TRUE(held.ok());
  Tick();
  Use(cache, young);
  Use(cache, Put("next", std::string(90, 'n')));
  EXPECT_TRUE(Has(cache, old));
  EXPECT_FALSE(Has(cache, young));
}

TEST_F(CacheTest, WhatOtherProcessesHoldStaysToo) {
  Cache cache(OptionsOf(200));
  const Source held = Put("held", std::string(150, 'h'));
  int ready[2];
  int done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = Fork([&] {
    const auto files = cache.Admit("another worker", {held}, Go);
    char byte = files.ok() ? 'y' : 'n';
    return ::write(ready[1], &byte, 1) == 1 && ::read(done[0], &byte, 1) == 1 && files.ok();
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, 'y');
  const Source wanted = Put("wanted", std::string(100, 'w'));
  const absl::Status full = cache.Admit("s3://bucket/wanted", {wanted}, Go).status();
  EXPECT_EQ(ErrorReason(full), "CACHE_FULL");
  EXPECT_THAT(std::string(full.message()), HasSubstr("running jobs"));
  ASSERT_EQ(::write(done[1], &byte, 1), 1);
  ASSERT_TRUE(Succeeds(child));
  EXPECT_TRUE(cache.Admit("s3://bucket/wanted", {wanted}, Go).ok());
  EXPECT_FALSE(Has(cache, held));
}

TEST_F(CacheTest, KilledProcessHoldsNothing) {
  Cache cache(OptionsOf(200));
  const Source held = Put("held", std::string(150, 'h'));
  const pid_t child = Fork([&] {
    const auto files = cache.Admit("another worker", {held}, Go);
    if (files.ok()) ::raise(SIGKILL);
    return false;
  });
  EXPECT_FALSE(Succeeds(child));
  Use(cache, Put("wanted", std::string(100, 'w')));
  EXPECT_FALSE(Has(cache, held));
}

TEST_F(CacheTest, ModelLargerThanTheBoundIsRefusedWithTheNumbersAndRemovesNothing) {
  Cache cache(OptionsOf(std::uint64_t{3} << 30));
  const Source small = Put("small", "s");
  Use(cache, small);
  Source large = Put("large", "l");
  large.object.bytes = std::uint64_t{7} << 29;  // 3.5 GiB
  const absl::Status status = cache.Admit("s3://bucket/large", {large}, Go).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "CACHE_FULL");
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("s3://bucket/large"), HasSubstr("3.50 GiB"), HasSubstr("3.00 GiB"),
                    HasSubstr("raise --cache-gib to 4")));
  EXPECT_TRUE(Has(cache, small));
}

TEST_F(CacheTest, FilesOfOneModelAreAdmittedTogetherOrNotAtAll) {
  Cache cache(OptionsOf(300));
  const Source a = Put("a", std::string(200, 'a'));
  const Source b = Put("b", std::string(200, 'b'));
  EXPECT_EQ(ErrorReason(cache.Admit("model", {a, b}, Go).status()), "CACHE_FULL");
  EXPECT_EQ(CountIn("files"), 0);
}

TEST_F(CacheTest, SecondJobFindsWhatTheFirstFetched) {
  Cache cache(OptionsOf(1000));
  const Source a = Put("a", std::string(100, 'a'));
  Use(cache, a);
  const std::uint64_t read = store_->bytes_read();
  Use(cache, a);
  EXPECT_EQ(read, 100);
  EXPECT_EQ(store_->bytes_read(), 100);
}

TEST_F(CacheTest, ChangedObjectIsAnotherEntry) {
  Cache cache(OptionsOf(1000));
  Use(cache, Put("a", std::string(100, 'a')));
  const auto files = cache.Admit("model", {Put("a", std::string(100, 'b'))}, Go);
  ASSERT_TRUE(files.ok());
  ASSERT_TRUE(FetchAll(*files->front()).ok());
  EXPECT_EQ(ContentOf(files->front()->path()), std::string(100, 'b'));
}

TEST_F(CacheTest, SameContentUnderTwoNamesIsOneEntry) {
  Cache cache(OptionsOf(1000));
  Source a = Put("a", std::string(100, 'x'));
  Source b = Put("b", std::string(100, 'x'));
  a.object.sha256 = b.object.sha256 = std::string(64, 'c');
  const auto files = cache.Admit("model", {a, b}, Go);
  ASSERT_TRUE(files.ok());
  EXPECT_EQ((*files)[0]->path(), (*files)[1]->path());
  EXPECT_EQ(CountIn("files"), 1);
}

TEST_F(CacheTest, ObjectWithoutAnEtagIsFetchedAnewByEveryJob) {
  Cache cache(OptionsOf(1000));
  Source a = Put("a", std::string(100, 'a'));
  a.object.etag.clear();
  Use(cache, a);
  Use(cache, a);
  EXPECT_EQ(store_->bytes_read(), 200);
  EXPECT_EQ(CountIn("files"), 1);
}

TEST_F(CacheTest, HalfMadeAndHalfRemovedEntriesOfTheDeadAreSwept) {
  Cache cache(OptionsOf(1000));
  fs::create_directories(root_ / "cache/incoming/1234");
  fs::create_directories(root_ / "cache/trash/5678");
  fs::create_directories(root_ / "cache/views/90ab");
  std::ofstream(root_ / "cache/views/90ab.lock").flush();
  Use(cache, Put("a", std::string(100, 'a')));
  EXPECT_EQ(CountIn("incoming"), 0);
  EXPECT_EQ(CountIn("trash"), 0);
  EXPECT_EQ(CountIn("views"), 0);
}

TEST_F(CacheTest, EntryWhoseBytesWereCutShortIsMadeAnew) {
  Cache cache(OptionsOf(1000));
  const Source a = Put("a", std::string(100, 'a'));
  Use(cache, a);
  fs::resize_file(cache.EntryDirectory(a) / "bytes", 60);
  const auto files = cache.Admit("model", {a}, Go);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_TRUE(FetchAll(*files->front()).ok());
  EXPECT_EQ(ContentOf(files->front()->path()), std::string(100, 'a'));
}

// Root may open any file: here a symbolic link and below a directory stand for what is refused.
TEST_F(CacheTest, EntryThatCannotBeOpenedNowIsNamedAndKept) {
  Cache cache(OptionsOf(1000));
  const Source a = Put("a", std::string(100, 'a'));
  Use(cache, a);
  const fs::path bytes = cache.EntryDirectory(a) / "bytes";
  fs::rename(bytes, root_ / "elsewhere");
  fs::create_symlink(root_ / "elsewhere", bytes);
  const absl::Status status = cache.Admit("model", {a}, Go).status();
  EXPECT_EQ(ErrorReason(status), "CACHE_UNUSABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(bytes.string()));
  fs::rename(root_ / "elsewhere", bytes);
  Use(cache, a);
  EXPECT_EQ(store_->bytes_read(), 100);
}

TEST_F(CacheTest, EntryThatCannotBeLockedIsNotSaidToBeInUse) {
  Cache cache(OptionsOf(300));
  const Source a = Put("a", std::string(200, 'a'));
  Use(cache, a);
  const fs::path lock = CachedFile::LockFile(cache.EntryDirectory(a));
  fs::remove(lock);
  fs::create_directory(lock);
  const absl::Status status = cache.Admit("model", {Put("b", std::string(200, 'b'))}, Go).status();
  EXPECT_EQ(ErrorReason(status), "CACHE_UNUSABLE");
  EXPECT_THAT(std::string(status.message()), HasSubstr(lock.string()));
  EXPECT_TRUE(Has(cache, a));
}

TEST_F(CacheTest, WaitForTheLockEndsWhenTheJobIsCancelled) {
  Cache cache(OptionsOf(1000));
  Use(cache, Put("a", "a"));
  const auto lock = FileLock::Try(root_ / "cache/lock", FileLock::Kind::kExclusive);
  ASSERT_TRUE(lock.ok() && lock->has_value());
  const absl::Status status =
      cache.Admit("model", {Put("b", "b")}, [] { return absl::CancelledError("stop"); }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(CacheTest, TwoProcessesFetchOneObjectOnce) {
  Cache cache(OptionsOf(100'000));
  const std::string content = [] {
    std::string bytes;
    for (int i = 0; i < 2000; ++i) bytes += static_cast<char>(i % 251);
    return bytes;
  }();
  const Source source = Put("a", content);
  const auto fetch = [&] {
    const auto files = cache.Admit("model", {source}, Go);
    return files.ok() && FetchAll(*files->front()).ok() &&
           ContentOf(files->front()->path()) == content;
  };
  const pid_t one = Fork(fetch);
  const pid_t other = Fork(fetch);
  EXPECT_TRUE(Succeeds(one));
  EXPECT_TRUE(Succeeds(other));
  EXPECT_EQ(store_->bytes_read(), content.size());
  EXPECT_EQ(store_->reads(), content.size() / kChunk);
}

TEST_F(CacheTest, ViewGoesWithItsOwnerAndStaysWhileItLives) {
  Cache cache(OptionsOf(1000));
  std::ofstream(root_ / "target") << "content";
  fs::path directory;
  {
    const auto view = cache.NewView(Go);
    ASSERT_TRUE(view.ok()) << view.status();
    directory = (*view)->directory();
    ASSERT_TRUE(View::Add(directory / "model/config.json", root_ / "target").ok());
    Use(cache, Put("a", "a"));  // sweeps
    EXPECT_EQ(ContentOf(directory / "model/config.json"), "content");
  }
  EXPECT_FALSE(fs::exists(directory));
  EXPECT_TRUE(fs::exists(root_ / "target"));
  EXPECT_EQ(CountIn("views"), 0);
}

}  // namespace
}  // namespace teq::cache
