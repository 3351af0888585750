#include "client/cache/cached_file.h"

#include <sys/resource.h>

#include "client/cache/chunk_slot.h"
#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "tests/unit/client/cache/cache_test_base.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CachedFileTest : public CacheTestBase {
 protected:
  // Three chunks, the last of 8 bytes.
  const std::string content_ = "0123456789abcdef0123456789ABCDEFlastpart";

  std::shared_ptr<CachedFile> Open(const Source& source) {
    auto files = cache_->Admit("model", {source}, Go);
    EXPECT_TRUE(files.ok()) << files.status();
    return files->front();
  }
  void SetUp() override {
    CacheTestBase::SetUp();
    cache_ = std::make_unique<Cache>(OptionsOf(10'000));
    source_ = Put("weights", content_);
    entry_ = cache_->EntryDirectory(source_);
  }
  /// Opens the entry anew, as another process would, and fetches all.
  void ExpectWholeAfterReads(std::uint64_t reads) {
    const std::uint64_t before = store_->reads();
    const auto file = Open(source_);
    ASSERT_TRUE(FetchAll(*file).ok());
    EXPECT_EQ(ContentOf(file->path()), content_);
    EXPECT_EQ(store_->reads() - before, reads);
  }

  std::unique_ptr<Cache> cache_;
  Source source_;
  fs::path entry_;
};

TEST_F(CachedFileTest, OnlyTheChunkThatIsAskedForIsFetched) {
  const auto file = Open(source_);
  ASSERT_TRUE(file->FetchChunk(1, Go).ok());
  EXPECT_EQ(store_->bytes_read(), kChunk);
  EXPECT_EQ(ContentOf(file->path()),
            std::string(16, '\0') + "0123456789ABCDEF" + std::string(8, '\0'));
  ASSERT_TRUE(file->FetchChunk(1, Go).ok());
  EXPECT_EQ(store_->reads(), 1);
}

TEST_F(CachedFileTest, WhatIsOnTheDiskIsNotFetchedAgain) {
  ExpectWholeAfterReads(3);
  ExpectWholeAfterReads(0);
}

TEST_F(CachedFileTest, TornSlotIsNotBelieved) {
  ExpectWholeAfterReads(3);
  // The second half of chunk 1's slot, which is the third one, did not reach the disk.
  Overwrite(entry_ / "chunks", 2 * kSlotBytes + kSlotBytes / 2, std::string(kSlotBytes / 2, '\0'));
  ExpectWholeAfterReads(1);
}

TEST_F(CachedFileTest, SlotThatIsNewerThanItsBytesIsNotBelieved) {
  ExpectWholeAfterReads(3);
  Overwrite(entry_ / "bytes", 0, std::string(16, '\0'));
  ExpectWholeAfterReads(1);
}

TEST_F(CachedFileTest, OneWrongByteIsFound) {
  ExpectWholeAfterReads(3);
  Overwrite(entry_ / "bytes", 39, "T");
  ExpectWholeAfterReads(1);
}

TEST_F(CachedFileTest, SlotOfAnotherChunkIsNotBelieved) {
  ExpectWholeAfterReads(3);
  const std::string slots = ContentOf(entry_ / "chunks");
  Overwrite(entry_ / "bytes", 16, content_.substr(0, 16));
  Overwrite(entry_ / "chunks", 2 * kSlotBytes, slots.substr(kSlotBytes, kSlotBytes));
  ExpectWholeAfterReads(1);
}

TEST_F(CachedFileTest, SlotsWithoutTheirFileAreNotBelieved) {
  ExpectWholeAfterReads(3);
  fs::remove(entry_ / "bytes");
  ExpectWholeAfterReads(3);
}

TEST_F(CachedFileTest, ObjectThatChangedMeanwhileIsAnErrorAndLeavesNothing) {
  const auto file = Open(source_);
  ASSERT_TRUE(file->FetchChunk(0, Go).ok());
  store_->Put("weights", std::string(40, 'x'));
  EXPECT_EQ(ErrorReason(file->FetchChunk(1, Go)), "OBJECT_CHANGED");
  EXPECT_EQ(ContentOf(file->path()).substr(16, 16), std::string(16, '\0'));
}

TEST_F(CachedFileTest, TooFewBytesOfAChunkAreAnError) {
  source_.object.bytes = 48;  // the store has 40
  const auto file = Open(source_);
  const absl::Status status = file->FetchChunk(2, Go);
  EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/model/weights"));
}

// From FIPS 180-2: the digest of "abc".
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST_F(CachedFileTest, DigestOfTheWholeIsTheStandards) {
  const auto file = Open(Put("abc", "abc"));
  ASSERT_TRUE(FetchAll(*file).ok());
  EXPECT_EQ(file->Sha256(Go).value(), kAbc);
  EXPECT_EQ(Open(Put("empty", ""))->Sha256(Go).value(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_F(CachedFileTest, BytesWithAnotherDigestThanAnnouncedAreAnErrorAndNotBelievedLater) {
  source_.object.sha256 = kAbc;
  entry_ = cache_->EntryDirectory(source_);
  {
    const auto file = Open(source_);
    ASSERT_TRUE(FetchAll(*file).ok());
    const absl::Status status = file->Sha256(Go).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("weights"), HasSubstr(kAbc)));
  }
  ExpectWholeAfterReads(3);
}

TEST_F(CachedFileTest, DigestOfTheWholeIsTakenAnewWhereAChunkWasFetchedAgain) {
  const Source source = Put("text", "xyz");
  {
    const auto file = Open(source);
    ASSERT_TRUE(FetchAll(*file).ok());
    ASSERT_TRUE(file->Sha256(Go).ok());
  }
  Overwrite(cache_->EntryDirectory(source) / "bytes", 1, "?");
  store_->Alter("text", "abc");
  const auto file = Open(source);
  ASSERT_TRUE(FetchAll(*file).ok());
  EXPECT_EQ(file->Sha256(Go).value(), kAbc);
}

TEST_F(CachedFileTest, ChunkThatWasFetchedAgainHasToMakeTheWholeThatWasAnnounced) {
  Source source = Put("text", "abc");
  source.object.sha256 = kAbc;
  {
    const auto file = Open(source);
    ASSERT_TRUE(FetchAll(*file).ok());
    ASSERT_EQ(file->Sha256(Go).value(), kAbc);
  }
  Overwrite(cache_->EntryDirectory(source) / "bytes", 1, "?");
  store_->Alter("text", "abd");
  const auto file = Open(source);
  ASSERT_TRUE(FetchAll(*file).ok());
  EXPECT_EQ(ErrorReason(file->Sha256(Go).status()), "OBJECT_CORRUPT");
}

TEST_F(CachedFileTest, FullDiskNamesTheFileAndTheRemedy) {
  // A limit of the process stands in for a disk's end.
  const pid_t child = Fork([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {.rlim_cur = 24, .rlim_max = 24};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
    const absl::Status status = CachedFile::Create(root_ / "entry", source_, kChunk);
    return ErrorReason(status) == "DISK_FULL" &&
           std::string(status.message()).find("--cache-gib") != std::string::npos;
  });
  EXPECT_TRUE(Succeeds(child));
}

TEST(ChunkSlotTest, SlotSpeaksForItsKeyAndNumberOnly) {
  const std::string slot = EncodeSlot("key", 3, kAbc);
  EXPECT_EQ(slot.size(), kSlotBytes);
  EXPECT_EQ(DecodeSlot("key", 3, slot), kAbc);
  EXPECT_EQ(DecodeSlot("key", 4, slot), std::nullopt);
  EXPECT_EQ(DecodeSlot("other", 3, slot), std::nullopt);
  EXPECT_EQ(DecodeSlot("key", 3, std::string(kSlotBytes, '\0')), std::nullopt);
  EXPECT_EQ(DecodeSlot("key", 3, slot.substr(1)), std::nullopt);
  for (std::size_t at = 0; at < slot.size(); ++at) {
    std::string torn = slot;
    torn[at] ^= 1;
    EXPECT_EQ(DecodeSlot("key", 3, torn), std::nullopt) << at;
  }
}

}  // namespace
}  // namespace teq::cache
