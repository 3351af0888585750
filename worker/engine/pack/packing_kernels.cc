#include "worker/engine/pack/packing_kernels.h"

#include <algorithm>
#include <cstring>

#include "worker/engine/model/multiversion.h"

namespace teq::pack::cpu {
namespace {

#define TEQ_INLINE inline __attribute__((always_inline))

// Codes that fill whole words of any bits.
constexpr std::int64_t kBlock = 32;
// Eight codes are packed at a time, and so many such groups before they are put together.
constexpr std::int64_t kGroup = 8;
constexpr std::int64_t kGroups = 128;

/// The eight codes of a little-endian word, one a byte, moved together: pairs, pairs of pairs, then
/// halves. Returns 8 * bits bits.
TEQ_INLINE std::uint32_t Gather(std::uint64_t codes, int bits) {
  const std::uint64_t pair = (std::uint64_t{1} << (2 * bits)) - 1;
  const std::uint64_t four = (std::uint64_t{1} << (4 * bits)) - 1;
  codes = (codes | codes >> (8 - bits)) & pair * 0x0001000100010001U;
  codes = (codes | codes >> (16 - 2 * bits)) & four * 0x0000000100000001U;
  return static_cast<std::uint32_t>(codes | codes >> (32 - 4 * bits));
}

TEQ_INLINE void GatherGroups(const std::uint8_t* codes, std::int64_t groups, int bits,
                             std::uint32_t* gathered) {
  for (std::int64_t i = 0; i < groups; ++i) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, codes + i * kGroup, sizeof(eight));
    gathered[i] = Gather(eight, bits);
  }
}

/// Four groups of 24 bits are three words.
TEQ_INLINE void JoinThreeBits(const std::uint32_t* g, std::int64_t quads, std::uint32_t* words) {
  for (std::int64_t i = 0; i < quads; ++i) {
    words[3 * i] = g[4 * i] | g[4 * i + 1] << 24;
    words[3 * i + 1] = g[4 * i + 1] >> 8 | g[4 * i + 2] << 16;
    words[3 * i + 2] = g[4 * i + 2] >> 16 | g[4 * i + 3] << 8;
  }
}

TEQ_INLINE void JoinTwoBits(const std::uint32_t* g, std::int64_t pairs, std::uint32_t* words) {
  for (std::int64_t i = 0; i < pairs; ++i) words[i] = g[2 * i] | g[2 * i + 1] << 16;
}

/// Packs whole blocks of 32 codes; returns how many codes those were.
template <int kBits>
TEQ_INLINE std::int64_t PackBlocks(const std::uint8_t* codes, std::int64_t size,
                                   std::uint32_t* words) {
  const std::int64_t all = size / 32 * 4;  // groups
  std::uint32_t gathered[kGroups];
  for (std::int64_t first = 0; first < all; first += kGroups) {
    const std::int64_t groups = std::min(kGroups, all - first);
    std::uint32_t* target = words + first * kBits / 4;
    GatherGroups(codes + first * kGroup, groups, kBits, kBits == 4 ? target : gathered);
    if (kBits == 3) JoinThreeBits(gathered, groups / 4, target);
    if (kBits == 2) JoinTwoBits(gathered, groups / 2, target);
  }
  return all * kGroup;
}

/// One code after another.
void PackTail(const std::uint8_t* codes, std::int64_t size, int bits, std::uint32_t* words) {
  std::uint64_t stream = 0;  // bits that no word holds yet
  int held = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    stream |= std::uint64_t{codes[i]} << held;
    held += bits;
    if (held < 32) continue;
    *words++ = static_cast<std::uint32_t>(stream);
    stream >>= 32;
    held -= 32;
  }
  if (held > 0) *words = static_cast<std::uint32_t>(stream);
}

/// Word `kWord` of every column, from the codes of 32 rows that have bits in it.
template <int kBits, int kWord>
TEQ_INLINE void PackWord(const std::uint8_t* __restrict codes, std::int64_t columns,
                         std::uint32_t* __restrict words) {
  constexpr int kFirst = 32 * kWord / kBits;
  constexpr int kLast = (32 * kWord + 31) / kBits;
  for (std::int64_t c = 0; c < columns; ++c) {
    std::uint32_t word = 0;
#pragma GCC unroll 16
    for (int row = kFirst; row <= kLast; ++row) {
      const std::uint32_t code = codes[row * columns + c];
      const int shift = row * kBits - 32 * kWord;
      word |= shift >= 0 ? code << shift : code >> -shift;
    }
    words[kWord * columns + c] = word;
  }
}

template <int kBits>
TEQ_INLINE void PackWords(const std::uint8_t* codes, std::int64_t columns, std::uint32_t* words) {
  PackWord<kBits, 0>(codes, columns, words);
  PackWord<kBits, 1>(codes, columns, words);
  if constexpr (kBits > 2) PackWord<kBits, 2>(codes, columns, words);
  if constexpr (kBits > 3) PackWord<kBits, 3>(codes, columns, words);
}

/// Any number of rows and bits.
TEQ_INLINE void PackRowByRow(const std::uint8_t* codes, std::int64_t rows, std::int64_t columns,
                             int bits, std::uint32_t* words) {
  std::fill_n(words, (rows * bits + 31) / 32 * columns, 0U);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t bit = row * bits;
    const auto shift = static_cast<unsigned>(bit % 32);
    const std::uint8_t* __restrict code = codes + row * columns;
    std::uint32_t* __restrict low = words + bit / 32 * columns;
    for (std::int64_t c = 0; c < columns; ++c) low[c] |= std::uint32_t{code[c]} << shift;
    if (shift + static_cast<unsigned>(bits) <= 32) continue;
    std::uint32_t* __restrict high = low + columns;
    for (std::int64_t c = 0; c < columns; ++c) high[c] |= std::uint32_t{code[c]} >> (32 - shift);
  }
}

}  // namespace

TEQ_MULTIVERSION
void PackRowsBlock(const std::uint8_t* codes, std::int64_t rows, std::int64_t columns, int bits,
                   std::uint32_t* words) {
  const bool whole = rows == kBlock;
  if (whole && bits == 2) return PackWords<2>(codes, columns, words);
  if (whole && bits == 3) return PackWords<3>(codes, columns, words);
  if (whole && bits == 4) return PackWords<4>(codes, columns, words);
  PackRowByRow(codes, rows, columns, bits, words);
}

TEQ_MULTIVERSION
void PackRow(const std::uint8_t* codes, std::int64_t size, int bits, std::uint32_t* words) {
  std::int64_t done = 0;
  switch (bits) {
    case 2:
      done = PackBlocks<2>(codes, size, words);
      break;
    case 3:
      done = PackBlocks<3>(codes, size, words);
      break;
    case 4:
      done = PackBlocks<4>(codes, size, words);
      break;
    default:
      break;
  }
  PackTail(codes + done, size - done, bits, words + done / 32 * bits);
}

}  // namespace teq::pack::cpu
