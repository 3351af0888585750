#include "client/cli/recipes.h"

#include <algorithm>
#include <ostream>
#include <vector>

#include "absl/strings/ascii.h"
#include "client/cli/text.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/presets.h"
#include "proto/spec/recipe.h"
#include "proto/spec/yaml.h"

namespace teq::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string NameOf(const PresetText& preset) {
  return ShortEnumName(teq::v1::Preset_descriptor(), preset.preset);
}

void ListPresets(const Terminal& terminal, Format format) {
  std::vector<std::vector<std::string>> rows = {{"NAME", "RECIPE"}};
  Json json = Json::array();
  for (const PresetText& preset : Presets()) {
    rows.push_back({NameOf(preset), std::string(preset.summary)});
    json.push_back({{"name", NameOf(preset)}, {"summary", preset.summary}});
  }
  if (format == Format::kTable) terminal.out << Table(rows, {});
  if (format == Format::kJson) terminal.out << json.dump(2) << "\n";
  if (format == Format::kYaml) terminal.out << WriteYaml(json);
}

absl::Status UnknownPreset(const std::string& name) {
  std::vector<std::string> known;
  for (const PresetText& preset : Presets()) known.push_back(NameOf(preset));
  return Error(absl::StatusCode::kInvalidArgument, "UNKNOWN_PRESET",
               fmt::format("\"{}\" is not a preset; known: {}", name, fmt::join(known, ", ")),
               {{"preset", name}});
}

}  // namespace

ExitCode ShowRecipe(const Terminal& terminal, Format format, const std::string& preset) {
  if (preset.empty()) {
    ListPresets(terminal, format);
    return kOk;
  }
  const auto found = std::ranges::find(Presets(), absl::AsciiStrToUpper(preset), NameOf);
  if (found == Presets().end()) {
    PrintError(terminal, format, UnknownPreset(preset));
    return kInvalid;
  }
  teq::v1::Recipe recipe;
  recipe.set_preset(found->preset);
  const Json json = ToJson(RecipeWithDefaults(recipe));
  if (format == Format::kTable) terminal.out << WriteYaml({{"recipe", json}});
  if (format == Format::kJson) terminal.out << json.dump(2) << "\n";
  if (format == Format::kYaml) terminal.out << WriteYaml(json);
  return kOk;
}

}  // namespace teq::cli
