#pragma once

#include <string_view>

namespace teq::text {

// Characters that Hugging Face's tokenizers do not know, because two of its libraries have tables
// of an old Unicode; what PCRE2 and utf8proc say of them is not what a model was trained with. Each
// is the inside of a character class. Found by asking the library (0.23) about every code point.

/// Marks, and characters that decompose, since Unicode 9 (2016): left alone by NFC, NFD, NFKC, NFKD
/// and StripAccents, as characters without a class are.
inline constexpr std::string_view kUnknownToNormalizers =
    R"(\x{7FD}\x{898}-\x{89F}\x{8CA}-\x{8D3}\x{9FE}\x{AFA}-\x{AFF}\x{B55}\x{C04}\x{C3C}\x{CF3})"
    R"(\x{D00}\x{D3B}-\x{D3C}\x{D81}\x{EBA}\x{ECE}\x{1715}\x{180F}\x{1ABF}-\x{1ACE}\x{1CF7})"
    R"(\x{1DF6}-\x{1DFA}\x{32FF}\x{A7F2}-\x{A7F4}\x{A82C}\x{A8FF}\x{AB69}\x{10781}-\x{10785})"
    R"(\x{10787}-\x{107B0}\x{107B2}-\x{107BA}\x{10D24}-\x{10D27}\x{10EAB}-\x{10EAC})"
    R"(\x{10EFC}-\x{10EFF}\x{10F46}-\x{10F50}\x{10F82}-\x{10F85}\x{11070}\x{11073}-\x{11074})"
    R"(\x{110C2}\x{11145}-\x{11146}\x{111C9}\x{111CE}-\x{111CF}\x{11241}\x{1133B}\x{1145E})"
    R"(\x{1182C}-\x{1183A}\x{11930}-\x{11935}\x{11937}-\x{11938}\x{1193B}-\x{1193E}\x{11940})"
    R"(\x{11942}-\x{11943}\x{119D1}-\x{119D7}\x{119DA}-\x{119E0}\x{119E4}\x{11A01}-\x{11A0A})"
    R"(\x{11A33}-\x{11A39}\x{11A3B}-\x{11A3E}\x{11A47}\x{11A51}-\x{11A5B}\x{11A8A}-\x{11A99})"
    R"(\x{11D31}-\x{11D36}\x{11D3A}\x{11D3C}-\x{11D3D}\x{11D3F}-\x{11D45}\x{11D47})"
    R"(\x{11D8A}-\x{11D8E}\x{11D90}-\x{11D91}\x{11D93}-\x{11D97}\x{11EF3}-\x{11EF6})"
    R"(\x{11F00}-\x{11F01}\x{11F03}\x{11F34}-\x{11F3A}\x{11F3E}-\x{11F42}\x{13440})"
    R"(\x{13447}-\x{13455}\x{16F4F}\x{16F7F}-\x{16F87}\x{16FE4}\x{16FF0}-\x{16FF1})"
    R"(\x{1CF00}-\x{1CF2D}\x{1CF30}-\x{1CF46}\x{1E030}-\x{1E06D}\x{1E08F}\x{1E130}-\x{1E136})"
    R"(\x{1E2AE}\x{1E2EC}-\x{1E2EF}\x{1E4EC}-\x{1E4EF}\x{1F16C}\x{1FBF0}-\x{1FBF9})";

/// Punctuation since Unicode 7 (2014), which Punctuation takes for no such.
inline constexpr std::string_view kUnknownToPunctuation =
    R"(\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B7D}-\x{1B7E}\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D})"
    R"(\x{10EAD}\x{10F55}-\x{10F59}\x{10F86}-\x{10F89}\x{1144B}-\x{1144F}\x{1145A}-\x{1145B})"
    R"(\x{1145D}\x{11660}-\x{1166C}\x{116B9}\x{1183B}\x{11944}-\x{11946}\x{119E2})"
    R"(\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C}\x{11A9E}-\x{11AA2}\x{11C41}-\x{11C45})"
    R"(\x{11C70}-\x{11C71}\x{11EF7}-\x{11EF8}\x{11FFF}\x{12FF1}-\x{12FF2}\x{16E97}-\x{16E9A})"
    R"(\x{16FE2}\x{1E95E}-\x{1E95F})";

}  // namespace teq::text
