#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "fmt/format.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "test_directory.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::text {
namespace {

// Changes a few places of a file as damage or malice would: bits, missing parts, repeated parts,
// and numbers and brackets where none belong.
class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::string operator()(std::string bytes) {
    const std::uint64_t changes = 1 + Below(4);
    for (std::uint64_t i = 0; i < changes && !bytes.empty(); ++i) Change(bytes);
    return bytes;
  }

 private:
  std::uint64_t Below(std::uint64_t bound) { return random_() % bound; }

  void Change(std::string& bytes) {
    constexpr const char* kInserted[] = {"-1",    "99999999999999999999",
                                         "[",     "]",
                                         "{",     "}",
                                         "\"",    "null",
                                         ",",     "\\ud800",
                                         "1e999", "\xff",
                                         "0"};
    const std::size_t at = Below(bytes.size());
    const std::size_t length = 1 + Below(20);
    switch (Below(5)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << Below(8));
        return;
      case 1:
        bytes.erase(at, length);
        return;
      case 2:
        bytes.insert(at, bytes.substr(Below(bytes.size()), length));
        return;
      case 3:
        bytes.insert(at, kInserted[Below(std::size(kInserted))]);
        return;
      default:
        bytes.resize(at);
        return;
    }
  }

  std::mt19937_64 random_;
};

// Opens the directory's tokenizer; what opens must encode, and what does not must say why.
void ExpectStatusAndNoCrash(const std::filesystem::path& directory, std::uint64_t seed) {
  const auto tokenizer = OpenTokenizer(directory);
  if (!tokenizer.ok()) {
    EXPECT_EQ(ErrorReason(tokenizer.status()), "INVALID_TOKENIZER") << "seed " << seed;
    return;
  }
  for (const char* text :
       {"", "and the light of the earth", " a<s>b\n\xff\xe6\x97\xa5 12 <tool>"}) {
    const auto ids = (*tokenizer)->Encode(text);
    if (!ids.ok()) continue;
    for (const std::int32_t id : *ids) {
      ASSERT_GE(id, 0) << "seed " << seed;
      ASSERT_LT(id, (*tokenizer)->vocabulary_size()) << "seed " << seed;
    }
  }
}

TEST(TokenizerMutationTest, DamagedTokenizerJsonGivesAStatusOrATokenizer) {
  const auto reference = nlohmann::json::parse(std::ifstream(TEQ_REFERENCE_IDS));
  const TestDirectory directory;
  std::uint64_t seed = 0;
  for (const auto& test_case : reference["cases"]) {
    const std::string base = test_case["base"];
    if (base != "metaspace") continue;
    auto file = reference["bases"][base];
    file.merge_patch(test_case["patch"]);
    const std::string original = file.dump();
    for (int i = 0; i < 60; ++i, ++seed) {
      directory.Write("tokenizer.json", Mutator(seed)(original));
      ExpectStatusAndNoCrash(directory.path(), seed);
    }
  }
  ASSERT_GT(seed, 300);
}

TEST(TokenizerMutationTest, DamagedPipelineGivesAStatusOrATokenizer) {
  // Small vocabulary, all kinds of parts: damage falls on the parts.
  constexpr const char* kFile = R"({"added_tokens": [
      {"id": 3, "content": "<s>", "special": true, "lstrip": true, "rstrip": true},
      {"id": 4, "content": "the", "single_word": true, "normalized": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
      {"type": "Strip", "strip_left": true, "strip_right": false}, {"type": "Prepend", "prepend": "a"},
      {"type": "Replace", "pattern": {"Regex": "[a-z]{2,}"}, "content": "ab"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\p{L}+"}, "behavior": "MergedWithNext",
       "invert": true}, {"type": "Digits", "individual_digits": true},
      {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": true},
      {"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"ids": [3]}}},
    "model": {"type": "BPE", "unk_token": "a", "fuse_unk": true, "byte_fallback": true,
      "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";
  const TestDirectory directory;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    directory.Write("tokenizer.json", Mutator(seed)(kFile));
    ExpectStatusAndNoCrash(directory.path(), seed);
  }
}

TEST(TokenizerMutationTest, DamagedUnigramGivesAStatusOrATokenizer) {
  // A charsmap of one rule, a to b: units by Darts-clone's layout, made by hand.
  constexpr const char* kFile = R"({"added_tokens": [{"id": 1, "content": "</s>"}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "StripAccents"},
      {"type": "Precompiled", "precompiled_charsmap": "DAAAAACAAQBhDQAAAAAAgGIA"}]},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"},
    "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
      "vocab": [["<unk>", 0], ["</s>", 0], ["_", -1.5], ["a", -2], ["_a", -2.5e0], ["<0xC3>", -3]]}})";
  const TestDirectory directory;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    directory.Write("tokenizer.json", Mutator(seed)(kFile));
    ExpectStatusAndNoCrash(directory.path(), seed);
  }
}

TEST(TokenizerMutationTest, DamagedConfigGivesAStatusOrATokenizer) {
  const TestDirectory directory;
  directory.Write("tokenizer.json",
                  R"({"model": {"type": "BPE", "vocab": {"a": 0, "<s>": 1}, "merges": []}})");
  constexpr const char* kConfig =
      R"({"bos_token": {"content": "<s>"}, "add_bos_token": true, "tokenizer_class": "LlamaTokenizer",
          "added_tokens_decoder": {"1": {"content": "<s>", "special": true}}})";
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    directory.Write("tokenizer_config.json", Mutator(seed)(kConfig));
    ExpectStatusAndNoCrash(directory.path(), seed);
  }
}

TEST(TokenizerMutationTest, DamagedSentencePieceModelGivesAStatusOrATokenizer) {
  const TestDirectory directory;
  std::string corpus;
  for (int i = 0; i < 100; ++i) corpus += fmt::format("light {} dark {}\n", i * 7 % 100, i);
  directory.Write("corpus.txt", corpus);
  const std::string command = fmt::format(
      "cd '{}' && spm_train --input=corpus.txt --model_prefix=m --minloglevel=2 --vocab_size=60 "
      "--hard_vocab_limit=false >/dev/null 2>&1",
      directory.path().string());
  ASSERT_EQ(std::system(command.c_str()), 0) << command;  // NOLINT(cert-env33-c)
  std::ifstream stream(directory.path() / "m.model", std::ios::binary);
  const std::string original((std::istreambuf_iterator<char>(stream)), {});
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    directory.Write("tokenizer.model", Mutator(seed)(original));
    ExpectStatusAndNoCrash(directory.path(), seed);
  }
}

}  // namespace
}  // namespace teq::text
