#include "proto/spec/validate.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/spec/defaults.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/module_pattern.h"

namespace teq {
namespace {

using google::protobuf::Duration;
using teq::v1::JobSpec;
using teq::v1::Recipe;
using teq::v1::Weights;

constexpr std::size_t kMaxSpecBytes = 262'144;
constexpr int kMaxSteps = 100'000;
constexpr int kMaxBatchSize = 4096;
constexpr int kMaxOverrides = 256;
constexpr std::size_t kMaxMatchBytes = 1024;
constexpr int kMaxEvaluationUris = 32;
constexpr double kMaxHeldBackFraction = 0.5;
constexpr std::int64_t kMaxDurationSeconds = std::int64_t{10} * 365 * 24 * 3600;
// Less is a number in another unit.
constexpr std::int64_t kLeastMemoryLimit = std::int64_t{64} << 20;
constexpr int kMaxLabels = 64;
constexpr std::size_t kMaxLabelKeyBytes = 63;
constexpr std::size_t kMaxLabelValueBytes = 128;

// ---- Defaults ----

void SetTextDefaults(JobSpec& spec) {
  auto& calibration = *spec.mutable_calibration();
  if (!calibration.has_samples()) calibration.set_samples(defaults::kSamples);
  if (!calibration.has_sequence_length()) {
    calibration.set_sequence_length(defaults::kSequenceLength);
  }
  if (!calibration.has_seed()) calibration.set_seed(defaults::kSeed);
  auto& evaluation = *spec.mutable_evaluation();
  if (!evaluation.has_sequence_length()) {
    evaluation.set_sequence_length(defaults::kEvaluationSequenceLength);
  }
}

void SetLimitDefaults(teq::v1::Limits& limits) {
  if (!limits.has_max_runtime()) {
    limits.mutable_max_runtime()->set_seconds(defaults::kMaxRuntimeSeconds);
  }
  if (!limits.has_max_attempts()) limits.set_max_attempts(defaults::kMaxAttempts);
  if (!limits.has_max_preemptions()) limits.set_max_preemptions(defaults::kMaxPreemptions);
}

// ---- Checks ----

// Everything that is wrong, by field.
class Violations {
 public:
  void Add(std::string field, std::string description) {
    auto& violation = list_.emplace_back();
    violation.set_field(std::move(field));
    violation.set_description(std::move(description));
  }

  // Adds one unless low <= value <= high.
  void CheckRange(std::string field, std::int64_t value, std::int64_t low, std::int64_t high) {
    if (value < low || value > high) {
      Add(std::move(field),
          fmt::format("{} is out of range; give a whole number from {} to {}", value, low, high));
    }
  }

  // Adds one unless low <= value <= high.
  void CheckBetween(std::string field, double value, double low, double high) {
    if (value >= low && value <= high) return;  // so that NaN fails
    Add(std::move(field),
        fmt::format("{} is out of range; give a number from {} to {}", value, low, high));
  }

  // Adds one unless 0 < value <= high.
  void CheckPositive(std::string field, double value, double high) {
    if (value > 0 && value <= high) return;  // so that NaN fails
    Add(std::move(field),
        fmt::format("{} is out of range; give a number above 0, at most {}", value, high));
  }

  [[nodiscard]] absl::Status ToStatus() const {
    return list_.empty() ? absl::OkStatus() : InvalidFields("INVALID_SPEC", list_);
  }

 private:
  std::vector<google::rpc::BadRequest::FieldViolation> list_;
};

std::string Text(const absl::Status& status) { return std::string(status.message()); }

// An enum value that this version does not know can only come from another program's message.
template <typename IsValid>
void CheckEnum(std::string field, int number, IsValid is_valid, Violations& violations) {
  if (is_valid(number) && number != 0) return;
  violations.Add(std::move(field), fmt::format("{} is not a known value", number));
}

void CheckWeights(const Weights& weights, const std::string& path, Violations& violations) {
  if (weights.has_bits() && std::ranges::find(kCodeWidths, weights.bits()) == kCodeWidths.end()) {
    violations.Add(path + ".bits",
                   fmt::format("{} is not a supported width; use 2, 3, 4 or 8", weights.bits()));
  }
  const int group = weights.group_size();
  if (weights.has_group_size() && group != -1 && (group <= 0 || group % 8 != 0)) {
    violations.Add(path + ".group_size",
                   fmt::format("{} is not a group size; use a positive multiple of 8, or -1 for "
                               "the whole row",
                               group));
  }
}

// The recipe's own weights, with their defaults.
void CheckRecipeWeights(const Weights& weights, Violations& violations) {
  const std::string path = "recipe.weights";
  if (!weights.has_bits() && !weights.has_target_bits()) {
    violations.Add(path + ".bits", "is missing");
  }
  if (!weights.has_group_size()) violations.Add(path + ".group_size", "is missing");
  CheckWeights(weights, path, violations);
  if (!weights.has_target_bits()) return;
  violations.CheckBetween(path + ".target_bits", weights.target_bits(), kCodeWidths.front(),
                          kCodeWidths.back());
  if (weights.has_bits()) {
    violations.Add(path + ".target_bits",
                   fmt::format("stands beside bits: {}; keep one of them", weights.bits()));
  }
}

// What Teq and Schedule have in common.
template <typename Training>
void CheckTraining(const Training& training, const std::string& path, Violations& violations) {
  violations.CheckRange(path + ".steps", training.steps(), 0, kMaxSteps);
  violations.CheckRange(path + ".batch_size", training.batch_size(), 1, kMaxBatchSize);
  CheckEnum(path + ".objective", training.objective(), teq::v1::Objective_IsValid, violations);
  CheckEnum(path + ".gradient", training.gradient(), teq::v1::Gradient_IsValid, violations);
  violations.CheckPositive(path + ".held_back_fraction", training.held_back_fraction(),
                           kMaxHeldBackFraction);
  const double redrawn = training.redrawn_fraction();
  violations.CheckBetween(path + ".redrawn_fraction", redrawn, 0, 1);
  if (redrawn > 0 && training.objective() == teq::v1::OBJECTIVE_LM_LOSS) {
    violations.Add(path + ".redrawn_fraction",
                   fmt::format("{} stands beside objective LM_LOSS, which trains on the text as it "
                               "is; take KL, or write redrawn_fraction: 0",
                               redrawn));
  }
  if (redrawn > 0 && training.objective() == teq::v1::OBJECTIVE_BLOCK_MSE &&
      training.end_to_end_steps() == 0) {
    violations.Add(path + ".redrawn_fraction",
                   fmt::format("{} acts in the steps of all blocks together, and end_to_end_steps "
                               "is 0; ask for some, or write redrawn_fraction: 0",
                               redrawn));
  }
  CheckEnum(path + ".block_inputs", training.block_inputs(), teq::v1::BlockInputs_IsValid,
            violations);
  CheckEnum(path + ".compute_type", training.compute_type(), teq::v1::ComputeType_IsValid,
            violations);
  violations.CheckRange(path + ".end_to_end_steps", training.end_to_end_steps(), 0, kMaxSteps);
  if (training.end_to_end_steps() > 0 && training.objective() != teq::v1::OBJECTIVE_BLOCK_MSE) {
    violations.Add(
        path + ".end_to_end_steps",
        fmt::format("{} only follows objective BLOCK_MSE; {} is end to end itself: write "
                    "end_to_end_steps: 0",
                    training.end_to_end_steps(),
                    ShortEnumName(teq::v1::Objective_descriptor(), training.objective())));
  }
}

void CheckTransform(const teq::v1::Transform& transform, Violations& violations) {
  if (!transform.has_teq()) return;
  const std::string path = "recipe.transform.teq";
  CheckTraining(transform.teq(), path, violations);
  violations.CheckPositive(path + ".learning_rate", transform.teq().learning_rate(), 1);
  CheckEnum(path + ".init", transform.teq().init(), teq::v1::Initialization_IsValid, violations);
}

void CheckClipping(const Recipe& recipe, Violations& violations) {
  if (!recipe.clipping().has_learned()) return;
  violations.CheckPositive("recipe.clipping.learned.learning_rate",
                           recipe.clipping().learned().learning_rate(), 1);
  if (ScheduleOf(recipe).gradient() == teq::v1::GRADIENT_STRAIGHT_THROUGH) {
    violations.Add(
        recipe.transform().has_teq() ? "recipe.transform.teq.gradient" : "recipe.schedule.gradient",
        "STRAIGHT_THROUGH stands beside clipping.learned, whose factors it never "
        "moves; take FULL, or clipping: {search: {}}");
  }
}

void CheckRounding(const teq::v1::Rounding& rounding, Violations& violations) {
  if (rounding.has_gptq()) {
    const std::string path = "recipe.rounding.gptq";
    violations.CheckPositive(path + ".damping", rounding.gptq().damping(), 1);
    CheckEnum(path + ".group_range", rounding.gptq().group_range(), teq::v1::GroupRange_IsValid,
              violations);
  }
  if (rounding.has_learned()) {
    const std::string path = "recipe.rounding.learned";
    violations.CheckPositive(path + ".learning_rate", rounding.learned().learning_rate(), 1);
    CheckEnum(path + ".optimizer", rounding.learned().optimizer(), teq::v1::Optimizer_IsValid,
              violations);
  }
}

void CheckSchedule(const Recipe& recipe, Violations& violations) {
  const std::string path = "recipe.schedule";
  if (recipe.transform().has_teq()) {
    if (!recipe.has_schedule()) return;
    violations.Add(path,
                   "stands beside transform.teq, whose own fields say how all is trained; move "
                   "its fields there");
  } else if (Trains(recipe)) {
    CheckTraining(recipe.schedule(), path, violations);
  } else if (recipe.has_schedule()) {
    violations.Add(path,
                   "is given, but nothing is trained; leave it out, or give clipping: {learned: "
                   "{}} or rounding: {learned: {}}");
  }
}

// `has_target`: whether the recipe has target_bits.
void CheckOverride(const teq::v1::Override& change, const std::string& path, bool has_target,
                   Violations& violations) {
  if (change.match().empty()) {
    violations.Add(path + ".match", "is empty; give a module's name, or re: and a pattern");
  } else if (change.match().size() > kMaxMatchBytes) {
    violations.Add(path + ".match",
                   fmt::format("has {} bytes; at most {}", change.match().size(), kMaxMatchBytes));
  } else if (const auto pattern = ModulePattern::Parse(change.match()); !pattern.ok()) {
    violations.Add(path + ".match", Text(pattern.status()));
  }
  const auto& weights = change.weights();
  const bool changes = weights.has_bits() || weights.has_group_size() || weights.has_symmetric() ||
                       weights.has_target_bits();
  if (changes == change.skip()) {
    violations.Add(path, changes ? "has both weights and skip; keep one of them"
                                 : "changes nothing; give weights, or skip: true");
  }
  CheckWeights(weights, path + ".weights", violations);
  if (weights.has_target_bits()) {
    violations.Add(path + ".weights.target_bits",
                   "stands in an override; give bits here, or target_bits in recipe.weights");
  } else if (has_target && !change.skip() && !weights.has_bits()) {
    violations.Add(path + ".weights.bits",
                   "is missing; recipe.weights.target_bits chooses no bits for a layer that an "
                   "override names: give them");
  }
}

void CheckOverrides(const Recipe& recipe, Violations& violations) {
  if (recipe.overrides_size() > kMaxOverrides) {
    violations.Add("recipe.overrides", fmt::format("has {} entries; at most {}",
                                                   recipe.overrides_size(), kMaxOverrides));
    return;
  }
  for (int i = 0; i < recipe.overrides_size(); ++i) {
    CheckOverride(recipe.overrides(i), fmt::format("recipe.overrides[{}]", i),
                  recipe.weights().has_target_bits(), violations);
  }
}

void CheckRecipe(const Recipe& recipe, Violations& violations) {
  if (recipe.preset() != teq::v1::PRESET_UNSPECIFIED) {
    CheckEnum("recipe.preset", recipe.preset(), teq::v1::Preset_IsValid, violations);
  }
  CheckRecipeWeights(recipe.weights(), violations);
  CheckTransform(recipe.transform(), violations);
  CheckClipping(recipe, violations);
  CheckRounding(recipe.rounding(), violations);
  CheckSchedule(recipe, violations);
  CheckOverrides(recipe, violations);
}

// What a URI names, where it is a good one.
std::optional<Location> CheckUri(std::string field, const std::string& uri, UriUse use,
                                 Violations& violations) {
  if (uri.empty()) {
    violations.Add(std::move(field),
                   "is missing; write file:// and an absolute path, or another "
                   "URI");
    return std::nullopt;
  }
  auto location = ParseUri(uri, use);
  if (location.ok()) return *std::move(location);
  violations.Add(std::move(field), Text(location.status()));
  return std::nullopt;
}

void CheckCalibration(const JobSpec& spec, Violations& violations) {
  const auto& calibration = spec.calibration();
  CheckUri("calibration.uri", calibration.uri(), UriUse::kData, violations);
  violations.CheckRange("calibration.sequence_length", calibration.sequence_length(), 2, 1 << 20);
  if (Trains(spec.recipe()) && calibration.samples() == 1) {
    violations.Add("calibration.samples",
                   "1 is too few; the training holds one window back: use at least 2");
  } else {
    violations.CheckRange("calibration.samples", calibration.samples(), 1, 1'000'000);
  }
}

// A list of files, each given once; `what` names one of them.
void CheckFiles(const std::string& field, std::string_view what,
                const google::protobuf::RepeatedPtrField<std::string>& uris,
                Violations& violations) {
  if (uris.size() > kMaxEvaluationUris) {
    violations.Add(field,
                   fmt::format("has {} {}s; at most {}", uris.size(), what, kMaxEvaluationUris));
  }
  std::set<std::string> seen;
  for (int i = 0; i < uris.size(); ++i) {
    const std::string item = fmt::format("{}[{}]", field, i);
    const auto location = CheckUri(item, uris[i], UriUse::kData, violations);
    if (location && !seen.insert(UriOf(*location)).second) {
      violations.Add(item, fmt::format("{} is given twice; give each {} once", uris[i], what));
    }
  }
}

void CheckEvaluation(const teq::v1::Evaluation& evaluation, Violations& violations) {
  violations.CheckRange("evaluation.sequence_length", evaluation.sequence_length(), 2, 1 << 20);
  CheckFiles("evaluation.uris", "text", evaluation.uris(), violations);
  CheckFiles("evaluation.tasks", "task", evaluation.tasks(), violations);
  if (!evaluation.has_max_perplexity_delta()) return;
  if (!std::isfinite(evaluation.max_perplexity_delta())) {
    violations.Add("evaluation.max_perplexity_delta",
                   fmt::format("{} is not a finite number", evaluation.max_perplexity_delta()));
  }
  if (evaluation.uris().empty()) {
    violations.Add("evaluation.max_perplexity_delta",
                   "needs a text to measure on; give evaluation.uris");
  }
}

void CheckOutput(const JobSpec& spec, Violations& violations) {
  const auto model = CheckUri("model.uri", spec.model().uri(), UriUse::kModel, violations);
  const auto output = CheckUri("output.uri", spec.output().uri(), UriUse::kOutput, violations);
  if (model && output && (IsWithin(*output, *model) || IsWithin(*model, *output))) {
    violations.Add("output.uri", fmt::format("{} and the model's directory {} lie in one another; "
                                             "give a directory of its own",
                                             spec.output().uri(), spec.model().uri()));
  }
  if (spec.output().formats().empty()) {
    violations.Add("output.formats",
                   "is empty; give GPTQ, AWQ, COMPRESSED_TENSORS, GGUF or DEQUANTIZED, or several");
  }
  std::set<int> seen;
  for (int i = 0; i < spec.output().formats_size(); ++i) {
    const int format = spec.output().formats(i);
    const std::string field = fmt::format("output.formats[{}]", i);
    CheckEnum(field, format, teq::v1::Format_IsValid, violations);
    if (!seen.insert(format).second) {
      violations.Add(field, fmt::format("{} is given twice; give each format once",
                                        ShortEnumName(teq::v1::Format_descriptor(), format)));
    }
  }
}

void CheckResources(const teq::v1::Resources& resources, Violations& violations) {
  CheckEnum("resources.device", resources.device(), teq::v1::Device_IsValid, violations);
  const std::int64_t limit = resources.memory_limit_bytes();
  if (limit == 0 || limit >= kLeastMemoryLimit) return;
  violations.Add("resources.memory_limit_bytes",
                 fmt::format("{} is out of range; give bytes, at least {} (64 MiB), or 0 for three "
                             "fifths of the worker's memory",
                             limit, kLeastMemoryLimit));
}

void CheckDuration(const std::string& field, const Duration& duration, Violations& violations) {
  if (duration.seconds() < 1 || duration.seconds() > kMaxDurationSeconds || duration.nanos() < 0 ||
      duration.nanos() > 999'999'999) {
    violations.Add(field, fmt::format("{} s is out of range; from 1s to 3650d",
                                      static_cast<double>(duration.seconds()) +
                                          static_cast<double>(duration.nanos()) * 1e-9));
  }
}

void CheckLimits(const teq::v1::Limits& limits, Violations& violations) {
  CheckDuration("limits.max_runtime", limits.max_runtime(), violations);
  if (limits.has_max_queue_time()) {
    CheckDuration("limits.max_queue_time", limits.max_queue_time(), violations);
  }
  violations.CheckRange("limits.max_attempts", limits.max_attempts(), 1, 100);
  violations.CheckRange("limits.max_preemptions", limits.max_preemptions(), 0, 1000);
}

bool IsLabelKey(std::string_view key) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           std::string_view("._/-").find(c) != std::string_view::npos;
  };
  return !key.empty() && key.size() <= kMaxLabelKeyBytes && std::ranges::all_of(key, allowed);
}

}  // namespace

JobSpec WithDefaults(JobSpec spec) {
  *spec.mutable_recipe() = RecipeWithDefaults(std::move(*spec.mutable_recipe()));
  SetTextDefaults(spec);
  if (spec.output().formats().empty()) spec.mutable_output()->add_formats(defaults::kFormat);
  if (spec.resources().device() == teq::v1::DEVICE_UNSPECIFIED) {
    spec.mutable_resources()->set_device(defaults::kDevice);
  }
  SetLimitDefaults(*spec.mutable_limits());
  return spec;
}

absl::Status ValidateSpec(const JobSpec& spec) {
  Violations violations;
  if (spec.ByteSizeLong() > kMaxSpecBytes) {
    violations.Add("spec",
                   fmt::format("has {} bytes; at most {}", spec.ByteSizeLong(), kMaxSpecBytes));
    return violations.ToStatus();
  }
  CheckRecipe(spec.recipe(), violations);
  CheckCalibration(spec, violations);
  CheckEvaluation(spec.evaluation(), violations);
  CheckOutput(spec, violations);
  CheckResources(spec.resources(), violations);
  CheckLimits(spec.limits(), violations);
  return violations.ToStatus();
}

absl::Status ValidateAttributes(const teq::v1::Job& job) {
  Violations violations;
  if (job.labels_size() > kMaxLabels) {
    violations.Add("labels",
                   fmt::format("has {} entries; at most {}", job.labels_size(), kMaxLabels));
    return violations.ToStatus();
  }
  const std::map<std::string, std::string> sorted(job.labels().begin(), job.labels().end());
  for (const auto& [key, value] : sorted) {
    const std::string field = "labels." + key.substr(0, kMaxLabelKeyBytes);
    if (!IsLabelKey(key)) {
      violations.Add(field, "is not a label key; use 1 to 63 of a-z, 0-9, '.', '_', '/' and '-'");
    }
    if (value.size() > kMaxLabelValueBytes) {
      violations.Add(field, fmt::format("has a value of {} bytes; at most {}", value.size(),
                                        kMaxLabelValueBytes));
    }
  }
  return violations.ToStatus();
}

absl::Status CheckUris(const JobSpec& spec, const UriPolicy& policy) {
  const auto check = [&policy](const std::string& field, const std::string& uri, UriUse use) {
    const absl::Status problem = ResolveLocation(uri, use, policy).status();
    absl::Status status = WithContext(problem, field);
    google::rpc::BadRequest request;
    auto* violation = request.add_field_violations();
    violation->set_field(field);
    violation->set_description(Text(problem));
    AddDetail(status, request);
    return status;
  };
  TEQ_RETURN_IF_ERROR(check("model.uri", spec.model().uri(), UriUse::kModel));
  TEQ_RETURN_IF_ERROR(check("calibration.uri", spec.calibration().uri(), UriUse::kData));
  for (int i = 0; i < spec.evaluation().uris_size(); ++i) {
    TEQ_RETURN_IF_ERROR(
        check(fmt::format("evaluation.uris[{}]", i), spec.evaluation().uris(i), UriUse::kData));
  }
  for (int i = 0; i < spec.evaluation().tasks_size(); ++i) {
    TEQ_RETURN_IF_ERROR(
        check(fmt::format("evaluation.tasks[{}]", i), spec.evaluation().tasks(i), UriUse::kData));
  }
  return check("output.uri", spec.output().uri(), UriUse::kOutput);
}

std::string Digest(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), hash.data(), &size, EVP_sha256(), nullptr);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", hash[i]);
  return text;
}

}  // namespace teq
