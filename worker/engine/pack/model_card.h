#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/report.pb.h"

namespace teq::pack {

/// What a format's model card says beside the run's report.
struct ModelCard {
  teq::v1::Format format = teq::v1::FORMAT_UNSPECIFIED;
  bool exact = false;                               // its values are those that were rounded
  std::vector<teq::v1::Perplexity> perplexity;      // of this format's bytes, by dataset
  std::map<std::string, std::string> file_digests;  // sha256 of the directory's files
  std::filesystem::path source;  // where the original's README.md may lie, for its license
};

/// The card as text: front matter that model hubs read, then what the model is, its perplexities
/// with their standard errors, how to load it, the recipe, and the digests of its weights. License
/// and languages are those of the source's own card.
[[nodiscard]] std::string ModelCardText(const ModelCard& card, const teq::v1::Report& report);

/// Writes it as `directory`/README.md. RESOURCE_EXHAUSTED, DISK_FULL.
[[nodiscard]] absl::Status WriteModelCard(const ModelCard& card, const teq::v1::Report& report,
                                          const std::filesystem::path& directory);

}  // namespace teq::pack
