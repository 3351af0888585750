#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cache/inputs.h"
#include "client/model_info/file_version.h"
#include "client/model_info/layout.h"
#include "client/model_info/memory_plan.h"
#include "client/model_info/plan.h"
#include "client/objects/publication.h"
#include "teq/v1/engine.pb.h"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/eval/perplexity.h"
#include "worker/engine/eval/tasks.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/model/device.h"
#include "worker/engine/model/scratch.h"
#include "worker/engine/pack/packable_model.h"
#include "worker/engine/pipeline/block_rounder.h"
#include "worker/engine/pipeline/output_formats.h"
#include "worker/engine/pipeline/run.h"
#include "worker/engine/pipeline/weights_digest.h"
#include "worker/engine/teq/fold.h"
#include "worker/engine/teq/parameters.h"
#include "worker/engine/teq/scale_groups.h"
#include "worker/engine/teq/sensitivity.h"
#include "worker/engine/teq/statistics.h"
#include "worker/engine/teq/train.h"
#include "worker/engine/text/windows.h"

namespace teq::pipeline {

/// One job's way through the stages. Each stage reads what those before it left in the members.
/// Used once, from one thread.
class JobRun {
 public:
  JobRun(const teq::v1::StartRun& start, const Options& options, const EventSink& sink,
         const std::atomic<bool>& cancelled)
      : start_(start),
        spec_(start.spec()),
        options_(options),
        sink_(sink),
        cancelled_(cancelled),
        scratch_(options.data / "scratch", 0),
        files_(options.data / "scratch", 0),
        working_(options.data / "scratch", std::numeric_limits<std::int64_t>::max()),
        inputs_(std::make_shared<cache::Inputs>(
            cache::Options{.directory = options.data / "cache", .bytes = options.cache_bytes},
            options.uri_policy,
            cache::Inputs::Watch{
                .go_on = [&cancelled] { return !cancelled; },
                .on_progress = [this](auto done, auto total) { OnWait(done, total); }})) {}

  /// All stages, up to the attempt's sealed manifest.
  [[nodiscard]] absl::Status ToSealedContent();

  /// Removes what a failed run has written.
  void Abandon();

  [[nodiscard]] const teq::v1::Report& report() const { return report_; }
  [[nodiscard]] const std::string& manifest_sha256() const { return manifest_sha256_; }

 private:
  /// One evaluation text and what was measured on it.
  struct Dataset {
    std::string uri;
    text::Windows windows;
    eval::Evaluation full_precision;
    eval::Evaluation round_to_nearest;
  };
  /// One task and how the float model does on it.
  struct Task {
    eval::Task task;
    eval::TaskScores full_precision;
  };

  /// One of the requested formats, in the order of the request.
  struct Output {
    const OutputFormat* format = nullptr;
    std::map<std::string, std::string> file_digests;
    bool exact = false;
    std::vector<teq::v1::Perplexity> perplexity;  // of its own bytes, by dataset
  };

  absl::Status Fetch();
  absl::Status FetchModel();
  void RememberSmallFiles();
  [[nodiscard]] absl::Status CheckSource() const;
  absl::Status PlanRun();
  [[nodiscard]] absl::Status CheckRoomOnDisks() const;
  absl::Status FetchTexts();
  void NoteShortLines(const std::string& uri, const text::Windows& windows);
  absl::Status LoadModel();
  void ReadAhead(std::size_t number);
  void OnWait(std::uint64_t done, std::uint64_t total);
  absl::Status BaselineEval();
  absl::Status ChooseBits();
  absl::Status Calibrate();
  absl::Status CalibrateBlock(const model::Block& block,
                              const transform::BlockStatistics& statistics);
  absl::Status Transform();
  absl::Status Train(transform::TrainingTask task);
  teq::v1::ComputeType ComputeTypeFor(teq::v1::ComputeType requested);
  absl::Status Round();
  absl::Status RoundBlock(const model::Block& block, const transform::BlockStatistics& statistics,
                          BlockRounder& rounder);
  absl::Status KeepLayer(const model::Block& block, std::size_t index, const torch::Tensor& folded,
                         const transform::BlockStatistics& statistics,
                         const transform::BlockScales& scales, quant::Quantized quantized);
  absl::Status KeepChanged(const model::Block& folded, const transform::BlockGrids& grids,
                           const transform::BlockScales& scales);
  absl::Status KeepSource();
  absl::Status KeepOtherParts();
  /// The type in which a tensor is published.
  [[nodiscard]] torch::ScalarType PublishedType(torch::ScalarType source) const {
    return source == torch::kFloat32 ? float32_type_ : source;
  }
  /// Whether what is published of a tensor will be finite; NOT_REPRESENTABLE names it.
  [[nodiscard]] absl::Status CheckRepresentable(const std::string& name,
                                                const torch::Tensor& source) const;
  absl::Status KeepFloat(const std::string& name, const torch::Tensor& value);
  absl::Status Pack();
  absl::Status Verify();
  absl::Status Seal();
  absl::Status Upload();

  absl::StatusOr<eval::Evaluation> Measure(const model::Decoder& decoder,
                                           const model::Decoder* reference, const Dataset& dataset);
  void Announce(const Dataset& dataset, teq::v1::PerplexitySample::Phase phase, double perplexity);
  absl::StatusOr<std::vector<teq::v1::Perplexity>> MeasureOutput(const model::Decoder& decoder);
  absl::Status ReportQuality(const model::Decoder& quantized, const Output& output);
  absl::Status VerifyOutput(Output& output);
  absl::Status ReadOutputBack(Output& output, const std::filesystem::path& directory);
  absl::StatusOr<eval::TaskScores> Score(const model::Decoder& decoder, const Task& task);
  absl::Status CheckGate() const;

  /// Runs a stage and records how long it took.
  absl::Status Timed(teq::v1::Stage stage, absl::Status (JobRun::*run)());
  void SendProgress(std::int64_t done, std::int64_t total, const char* unit);
  [[nodiscard]] const teq::v1::Recipe& recipe() const { return spec_.recipe(); }
  [[nodiscard]] torch::TensorOptions FloatOptions() const {
    return torch::TensorOptions().dtype(torch::kFloat32).device(device_.torch);
  }
  [[nodiscard]] bool transforms() const {
    return recipe().transform().kind_case() != teq::v1::Transform::KIND_NOT_SET;
  }

  const teq::v1::StartRun& start_;
  const teq::v1::JobSpec& spec_;
  const Options& options_;
  const EventSink& sink_;
  const std::atomic<bool>& cancelled_;

  model_info::MemoryPlan memory_;
  model::Scratch scratch_;  // for what is kept of all blocks and tokens
  model::Scratch files_;    // for what is kept of what is published
  model::Scratch working_;  // for what is kept of one block

  teq::v1::Stage stage_ = teq::v1::STAGE_UNSPECIFIED;
  std::chrono::steady_clock::time_point stage_start_;
  std::int64_t done_before_ = 0;  // of the stage's work, before it began
  teq::v1::Report report_;
  std::optional<objects::Publication> publication_;
  std::string manifest_sha256_;

  model::Device device_;
  std::shared_ptr<cache::Inputs> inputs_;
  std::filesystem::path model_directory_;
  model_info::ModelConfig config_;
  std::optional<checkpoint::Checkpoint> checkpoint_;
  std::optional<WeightsDigest> digest_;  // of weights that lie here
  std::map<std::filesystem::path, std::optional<model_info::FileVersion>>
      small_files_;  // of the same model, before they were read
  model_info::VocabularyTensors vocabulary_;
  model::Decoder decoder_;
  text::Windows calibration_;
  std::vector<Dataset> datasets_;
  std::vector<Task> tasks_;

  std::vector<transform::BlockGrids> grids_;
  std::map<std::string, std::vector<quant::Candidate>> sensitivities_;  // by layer; target_bits
  std::vector<transform::ScaleGroup> groups_;                           // none without a transform
  transform::Parameters parameters_;
  torch::ScalarType float32_type_ = torch::kFloat16;  // as float32 tensors are published
  torch::ScalarType norm_type_ = torch::kFloat16;     // as the norms are
  pack::PackableModel packable_;
  std::int64_t clamped_zeros_ = 0;
  std::vector<Output> outputs_;
};

}  // namespace teq::pipeline
