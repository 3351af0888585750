#include "worker/engine/pack/model_card.h"

#include <algorithm>
#include <set>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/json.h"
#include "proto/spec/yaml.h"

namespace teq::pack {
namespace {

using Json = nlohmann::ordered_json;

/// What a card says of a format.
struct FormatText {
  teq::v1::Format format;
  const char* name;
  const char* library;
  const char* tag;  // empty: hubs have none
  const char* loading;
};

constexpr FormatText kTexts[] = {
    {teq::v1::FORMAT_GPTQ, "GPTQ (v1)", "transformers", "gptq",
     "vLLM and SGLang serve this directory as it is (`vllm serve DIRECTORY`); transformers loads "
     "it "
     "with the package `gptqmodel` where quantize_config.json has no `dynamic` rules, or has "
     "`modules_in_block_to_quantize` for those that keep layers float: of rules it knows nothing."},
    {teq::v1::FORMAT_AWQ, "AWQ (gemm)", "transformers", "awq",
     "vLLM, SGLang and TGI serve this directory as it is (`vllm serve DIRECTORY`); transformers "
     "loads it with an AWQ package."},
    {teq::v1::FORMAT_COMPRESSED_TENSORS, "compressed-tensors (pack-quantized)", "transformers",
     "compressed-tensors",
     "vLLM and SGLang serve this directory as it is (`vllm serve DIRECTORY`); transformers loads "
     "it "
     "with the package `compressed-tensors`, of version 0.18 or later where codes have 3 bits."},
    {teq::v1::FORMAT_GGUF, "GGUF", "gguf", "gguf",
     "llama.cpp and what is built on it load the `.gguf` file (`llama-cli -m FILE`)."},
    {teq::v1::FORMAT_DEQUANTIZED, "plain weights that hold the quantized values", "transformers",
     "",
     "Whatever loads the original loads this directory; it is as large as the original in half "
     "precision."},
};

const FormatText& TextOf(teq::v1::Format format) {
  const auto found = std::find_if(std::begin(kTexts), std::end(kTexts),
                                  [&](const FormatText& text) { return text.format == format; });
  return found == std::end(kTexts) ? kTexts[0] : *found;
}

/// The front matter of the source's card: what stands between its first two lines of "---". Empty
/// where there is none that can be read.
Json SourceFrontMatter(const std::filesystem::path& source) {
  const absl::StatusOr<std::string> readme = objects::ReadFile(source / "README.md");
  constexpr std::string_view kBegin = "---\n";
  if (!readme.ok() || !readme->starts_with(kBegin)) return Json::object();
  const std::size_t end = readme->find("\n---", kBegin.size() - 1);
  if (end == std::string::npos) return Json::object();
  Json matter = ReadYamlTexts(std::string_view(*readme).substr(0, end + 1).substr(kBegin.size()));
  return matter.is_null() ? Json::object() : matter;
}

/// "owner/name" of "hf://owner/name@revision"; else empty: hubs accept no other base models.
std::string HubName(std::string_view uri) {
  constexpr std::string_view kScheme = "hf://";
  if (!uri.starts_with(kScheme)) return {};
  uri.remove_prefix(kScheme.size());
  return std::string(uri.substr(0, uri.find('@')));
}

std::string ModelName(const teq::v1::Report& report) {
  std::string_view uri = report.inputs().model_uri();
  if (uri.starts_with("hf://")) uri = uri.substr(0, uri.find('@'));  // the revision
  while (uri.ends_with('/')) uri.remove_suffix(1);
  return std::string(uri.substr(uri.rfind('/') + 1));
}

/// "4-bit", or "2- to 8-bit".
std::string Bits(const teq::v1::Report& report) {
  std::set<int> bits;
  for (const teq::v1::LayerReport& layer : report.layers()) bits.insert(layer.bits());
  if (bits.empty()) return "quantized";
  if (bits.size() == 1) return fmt::format("{}-bit", *bits.begin());
  return fmt::format("{}- to {}-bit", *bits.begin(), *bits.rbegin());
}

std::string FrontMatter(const ModelCard& card, const teq::v1::Report& report) {
  const FormatText& text = TextOf(card.format);
  Json matter = {{"library_name", text.library}, {"pipeline_tag", "text-generation"}};
  if (const std::string base = HubName(report.inputs().model_uri()); !base.empty()) {
    matter["base_model"] = base;
    matter["base_model_relation"] = "quantized";
  }
  const Json source = SourceFrontMatter(card.source);
  for (const char* key : {"license", "license_name", "license_link", "language"}) {
    if (source.contains(key)) matter[key] = source[key];
  }
  // A larger model's other parts are in every format but GGUF.
  if (source.contains("pipeline_tag") && card.format != teq::v1::FORMAT_GGUF) {
    matter["pipeline_tag"] = source["pipeline_tag"];
  }
  matter["tags"] = {"teq", "quantized"};
  if (*text.tag != '\0') matter["tags"].push_back(text.tag);
  if (const std::string bits = Bits(report);
      bits.ends_with("-bit") && bits.find(' ') == std::string::npos) {
    matter["tags"].push_back(bits);
  }
  return fmt::format("---\n{}---\n", WriteYaml(matter));
}

/// Text of a table's cell: a bar or a line's end would end it.
std::string Cell(std::string_view text) {
  std::string cell;
  for (const char c : text) {
    if (c == '|') cell += '\\';
    cell += c == '\n' ? ' ' : c;
  }
  return cell;
}

std::string Perplexities(const ModelCard& card) {
  if (card.perplexity.empty()) return {};
  std::string table =
      "## Quality\n\nPerplexity of these files, read back, beside the original's and that of plain "
      "rounding on the same grid; ± one standard error, that of the difference paired by "
      "window.\n\n"
      "| text | original | round to nearest | quantized | difference from the original |\n"
      "|---|---|---|---|---|\n";
  for (const teq::v1::Perplexity& figures : card.perplexity) {
    table += fmt::format("| {} | {:.4f} | {:.4f} | {:.4f} ± {:.4f} | {:+.4f} ± {:.4f} |\n",
                         Cell(figures.dataset()), figures.full_precision(),
                         figures.round_to_nearest(), figures.quantized(), figures.standard_error(),
                         figures.delta(), figures.delta_standard_error());
  }
  return table + "\n";
}

std::string Digests(const ModelCard& card) {
  std::string lines;
  for (const auto& [file, digest] : card.file_digests) {
    if (file.ends_with(".safetensors") || file.ends_with(".gguf")) {
      lines += fmt::format("{}  {}\n", digest, file);
    }
  }
  return fmt::format("## Weights\n\nsha256, as `sha256sum -c` reads them:\n\n```\n{}```\n", lines);
}

}  // namespace

std::string ModelCardText(const ModelCard& card, const teq::v1::Report& report) {
  const FormatText& text = TextOf(card.format);
  std::string body = FrontMatter(card, report);
  body += fmt::format("\n# {}, {}, {}\n\n", ModelName(report), Bits(report), text.name);
  body += fmt::format(
      "`{}`, quantized by teqd {} (sha256 over its weight files: `{}`). {}\n\n",
      report.inputs().model_uri(), report.inputs().engine_version(), report.inputs().model_sha256(),
      card.exact ? "The files hold exactly the values that were rounded."
                 : "The format rounds what it stores once more; what was measured was measured on "
                   "these files.");
  body += Perplexities(card);
  body += fmt::format("## Loading\n\n{}\n\n", text.loading);
  body += fmt::format("## Recipe\n\n```yaml\n{}```\n\n", ToYaml(report.recipe()));
  return body + Digests(card);
}

absl::Status WriteModelCard(const ModelCard& card, const teq::v1::Report& report,
                            const std::filesystem::path& directory) {
  return objects::WriteFileAtomically(directory / "README.md", ModelCardText(card, report));
}

}  // namespace teq::pack
