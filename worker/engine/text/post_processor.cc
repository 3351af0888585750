#include "worker/engine/text/post_processor.h"

#include <string>
#include <string_view>

#include "proto/spec/error.h"

namespace teq::text {
namespace {

constexpr std::string_view kSupported =
    "Sequence, TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing";

absl::Status AppendSpecialToken(const JsonPart& part, const JsonPart& special_tokens,
                                std::vector<std::int32_t>& ids) {
  TEQ_ASSIGN_OR_RETURN(const std::string name, part["id"].String());
  TEQ_ASSIGN_OR_RETURN(const auto parts, special_tokens[name]["ids"].List());
  for (const JsonPart& each : parts) {
    TEQ_ASSIGN_OR_RETURN(const std::int32_t id, each.Id());
    ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::StatusOr<Affixes> ParseTemplate(const JsonPart& part) {
  TEQ_ASSIGN_OR_RETURN(const auto parts, part["single"].List());
  Affixes affixes;
  bool text_seen = false;
  for (const JsonPart& each : parts) {
    if (each["SpecialToken"].present()) {
      TEQ_RETURN_IF_ERROR(AppendSpecialToken(each["SpecialToken"], part["special_tokens"],
                                             text_seen ? affixes.suffix : affixes.prefix));
      continue;
    }
    if (!each["Sequence"].present() || text_seen) {
      return each.Invalid("must be a SpecialToken or the template's one Sequence");
    }
    text_seen = true;
  }
  if (!text_seen) return part["single"].Invalid("has no Sequence");
  return affixes;
}

// Entries are pairs of a token and its id.
absl::StatusOr<Affixes> ParseBert(const JsonPart& part) {
  Affixes affixes;
  const auto append = [](const JsonPart& pair, std::vector<std::int32_t>& ids) -> absl::Status {
    TEQ_ASSIGN_OR_RETURN(const auto parts, pair.List());
    if (parts.size() != 2) return pair.Invalid("must be a token and its id");
    TEQ_ASSIGN_OR_RETURN(const std::int32_t id, parts[1].Id());
    ids.push_back(id);
    return absl::OkStatus();
  };
  TEQ_RETURN_IF_ERROR(append(part["cls"], affixes.prefix));
  TEQ_RETURN_IF_ERROR(append(part["sep"], affixes.suffix));
  return affixes;
}

// Each processor works on what those before it made.
absl::StatusOr<Affixes> ParseSequence(const JsonPart& part) {
  Affixes affixes;
  TEQ_ASSIGN_OR_RETURN(const auto parts, part["processors"].List());
  for (const JsonPart& each : parts) {
    TEQ_ASSIGN_OR_RETURN(const Affixes outer, ParsePostProcessor(each));
    affixes.prefix.insert(affixes.prefix.begin(), outer.prefix.begin(), outer.prefix.end());
    affixes.suffix.insert(affixes.suffix.end(), outer.suffix.begin(), outer.suffix.end());
  }
  return affixes;
}

}  // namespace

absl::StatusOr<Affixes> ParsePostProcessor(const JsonPart& part) {
  if (!part.present()) return Affixes{};
  TEQ_ASSIGN_OR_RETURN(const std::string type, part["type"].String());
  if (type == "ByteLevel") return Affixes{};
  if (type == "TemplateProcessing") return ParseTemplate(part);
  if (type == "BertProcessing" || type == "RobertaProcessing") return ParseBert(part);
  if (type == "Sequence") return ParseSequence(part);
  return part["type"].Unsupported(type, kSupported);
}

}  // namespace teq::text
