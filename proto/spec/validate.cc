#include "proto/spec/validate.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
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
using teq::v1::Teq;
using teq::v1::Weights;

constexpr std::size_t kMaxSpecBytes = 262'144;
constexpr int kMaxOverrides = 256;
constexpr std::size_t kMaxMatchBytes = 1024;
constexpr int kMaxEvaluationUris = 32;
constexpr std::int64_t kMaxDurationSeconds = std::int64_t{10} * 365 * 24 * 3600;
constexpr int kMaxLabels = 64;
constexpr std::size_t kMaxLabelKeyBytes = 63;
constexpr std::size_t kMaxLabelValueBytes = 128;

// ---- Defaults ----

void SetWeightDefaults(Weights& weights) {
  if (!weights.has_bits()) weights.set_bits(defaults::kBits);
  if (!weights.has_group_size()) weights.set_group_size(defaults::kGroupSize);
  if (!weights.has_symmetric()) weights.set_symmetric(defaults::kSymmetric);
}

void SetTeqDefaults(Teq& teq) {
  if (!teq.has_steps()) teq.set_steps(defaults::kSteps);
  if (!teq.has_batch_size()) teq.set_batch_size(defaults::kBatchSize);
  if (!teq.has_learning_rate()) teq.set_learning_rate(defaults::kLearningRate);
  if (teq.objective() == teq::v1::OBJECTIVE_UNSPECIFIED) teq.set_objective(defaults::kObjective);
  if (teq.init() == teq::v1::INITIALIZATION_UNSPECIFIED) teq.set_init(defaults::kInit);
  if (teq.gradient() == teq::v1::GRADIENT_UNSPECIFIED) teq.set_gradient(defaults::kGradient);
  if (!teq.has_held_back_fraction()) teq.set_held_back_fraction(defaults::kHeldBackFraction);
}

void SetRecipeDefaults(Recipe& recipe) {
  SetWeightDefaults(*recipe.mutable_weights());
  if (!recipe.has_transform() && !recipe.has_rounding()) recipe.mutable_transform()->mutable_teq();
  if (recipe.transform().has_teq()) SetTeqDefaults(*recipe.mutable_transform()->mutable_teq());
  if (recipe.rounding().kind_case() == teq::v1::Rounding::KIND_NOT_SET) {
    recipe.mutable_rounding()->mutable_nearest();
  }
}

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

  [[nodiscard]] absl::Status ToStatus() const {
    return list_.empty() ? absl::OkStatus() : InvalidFields("INVALID_SPEC", list_);
  }

 private:
  std::vector<google::rpc::BadRequest::FieldViolation> list_;
};

std::string Text(const absl::Status& status) { return std::string(status.message()); }

void CheckWeights(const Weights& weights, const std::string& path, Violations& violations) {
  constexpr std::array kWidths = {2, 3, 4, 8};
  if (weights.has_bits() && std::ranges::find(kWidths, weights.bits()) == kWidths.end()) {
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

void CheckTeq(const Teq& teq, const std::string& path, Violations& violations) {
  violations.CheckRange(path + ".steps", teq.steps(), 0, 100'000);
  violations.CheckRange(path + ".batch_size", teq.batch_size(), 1, 4096);
  // Written so that NaN fails.
  if (!(teq.learning_rate() > 0 && teq.learning_rate() <= 1)) {
    violations.Add(
        path + ".learning_rate",
        fmt::format("{} is out of range; give a number above 0, at most 1", teq.learning_rate()));
  }
  if (!(teq.held_back_fraction() > 0 && teq.held_back_fraction() <= 0.5)) {
    violations.Add(path + ".held_back_fraction",
                   fmt::format("{} is out of range; give a number above 0, at most 0.5",
                               teq.held_back_fraction()));
  }
}

// An enum value that this version does not know can only come from another program's message.
template <typename IsValid>
void CheckEnum(std::string field, int number, IsValid is_valid, Violations& violations) {
  if (is_valid(number) && number != 0) return;
  violations.Add(std::move(field), fmt::format("{} is not a known value", number));
}

void CheckOverride(const teq::v1::Override& change, const std::string& path,
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
  const bool changes = weights.has_bits() || weights.has_group_size() || weights.has_symmetric();
  if (changes == change.skip()) {
    violations.Add(path, changes ? "has both weights and skip; keep one of them"
                                 : "changes nothing; give weights, or skip: true");
  }
  CheckWeights(weights, path + ".weights", violations);
}

void CheckRecipe(const Recipe& recipe, Violations& violations) {
  if (!recipe.weights().has_bits()) violations.Add("recipe.weights.bits", "is missing");
  if (!recipe.weights().has_group_size()) violations.Add("recipe.weights.group_size", "is missing");
  CheckWeights(recipe.weights(), "recipe.weights", violations);
  if (recipe.transform().has_teq()) {
    const Teq& teq = recipe.transform().teq();
    const std::string path = "recipe.transform.teq";
    CheckTeq(teq, path, violations);
    CheckEnum(path + ".objective", teq.objective(), teq::v1::Objective_IsValid, violations);
    CheckEnum(path + ".init", teq.init(), teq::v1::Initialization_IsValid, violations);
    CheckEnum(path + ".gradient", teq.gradient(), teq::v1::Gradient_IsValid, violations);
  }
  if (recipe.overrides_size() > kMaxOverrides) {
    violations.Add("recipe.overrides", fmt::format("has {} entries; at most {}",
                                                   recipe.overrides_size(), kMaxOverrides));
    return;
  }
  for (int i = 0; i < recipe.overrides_size(); ++i) {
    CheckOverride(recipe.overrides(i), fmt::format("recipe.overrides[{}]", i), violations);
  }
}

// The path that a URI names, where it is a good one.
std::optional<std::filesystem::path> CheckUri(std::string field, const std::string& uri,
                                              Violations& violations) {
  if (uri.empty()) {
    violations.Add(std::move(field), "is missing; write file:// and an absolute path");
    return std::nullopt;
  }
  auto path = ParseFileUri(uri);
  if (path.ok()) return *std::move(path);
  violations.Add(std::move(field), Text(path.status()));
  return std::nullopt;
}

void CheckCalibration(const JobSpec& spec, Violations& violations) {
  const auto& calibration = spec.calibration();
  const bool trains = spec.recipe().transform().has_teq();
  CheckUri("calibration.uri", calibration.uri(), violations);
  violations.CheckRange("calibration.sequence_length", calibration.sequence_length(), 2, 1 << 20);
  if (trains && calibration.samples() == 1) {
    violations.Add("calibration.samples",
                   "1 is too few; TEQ holds one window back: use at least 2");
  } else {
    violations.CheckRange("calibration.samples", calibration.samples(), 1, 1'000'000);
  }
}

void CheckEvaluation(const teq::v1::Evaluation& evaluation, Violations& violations) {
  violations.CheckRange("evaluation.sequence_length", evaluation.sequence_length(), 2, 1 << 20);
  if (evaluation.uris_size() > kMaxEvaluationUris) {
    violations.Add("evaluation.uris", fmt::format("has {} texts; at most {}",
                                                  evaluation.uris_size(), kMaxEvaluationUris));
  }
  std::set<std::filesystem::path> seen;
  for (int i = 0; i < evaluation.uris_size(); ++i) {
    const std::string field = fmt::format("evaluation.uris[{}]", i);
    const auto path = CheckUri(field, evaluation.uris(i), violations);
    if (path && !seen.insert(*path).second) {
      violations.Add(field,
                     fmt::format("{} is given twice; give each text once", evaluation.uris(i)));
    }
  }
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
  const auto model = CheckUri("model.uri", spec.model().uri(), violations);
  const auto output = CheckUri("output.uri", spec.output().uri(), violations);
  if (model && output && (IsWithin(*output, *model) || IsWithin(*model, *output))) {
    violations.Add("output.uri", fmt::format("{} and the model's directory {} lie in one another; "
                                             "give a directory of its own",
                                             spec.output().uri(), spec.model().uri()));
  }
  if (spec.output().formats().empty()) violations.Add("output.formats", "is empty; give GPTQ");
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
  SetRecipeDefaults(*spec.mutable_recipe());
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
  CheckEnum("resources.device", spec.resources().device(), teq::v1::Device_IsValid, violations);
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
  const auto check = [&policy](const std::string& field, const std::string& uri) {
    const absl::Status problem = ResolveUri(uri, policy).status();
    absl::Status status = WithContext(problem, field);
    google::rpc::BadRequest request;
    auto* violation = request.add_field_violations();
    violation->set_field(field);
    violation->set_description(Text(problem));
    AddDetail(status, request);
    return status;
  };
  TEQ_RETURN_IF_ERROR(check("model.uri", spec.model().uri()));
  TEQ_RETURN_IF_ERROR(check("calibration.uri", spec.calibration().uri()));
  for (int i = 0; i < spec.evaluation().uris_size(); ++i) {
    TEQ_RETURN_IF_ERROR(check(fmt::format("evaluation.uris[{}]", i), spec.evaluation().uris(i)));
  }
  return check("output.uri", spec.output().uri());
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

LayerGrid GridOf(const Recipe& recipe, std::string_view name) {
  LayerGrid grid{.bits = recipe.weights().bits(),
                 .group_size = recipe.weights().group_size(),
                 .symmetric = recipe.weights().symmetric()};
  for (int i = recipe.overrides_size() - 1; i >= 0; --i) {
    const auto& change = recipe.overrides(i);
    const auto pattern = ModulePattern::Parse(change.match());
    if (!pattern.ok() || !pattern->Matches(name)) continue;
    grid.quantized = !change.skip();
    const Weights& weights = change.weights();
    if (weights.has_bits()) grid.bits = weights.bits();
    if (weights.has_group_size()) grid.group_size = weights.group_size();
    if (weights.has_symmetric()) grid.symmetric = weights.symmetric();
    return grid;
  }
  return grid;
}

}  // namespace teq
