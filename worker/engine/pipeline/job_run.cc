#include "worker/engine/pipeline/job_run.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <set>
#include <utility>

#include "ATen/Parallel.h"
#include "client/model_info/format_rules.h"
#include "client/model_info/model_files.h"
#include "client/model_info/output_size.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/recipe.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/host_memory.h"
#include "worker/engine/pack/model_card.h"
#include "worker/engine/pipeline/disk_room.h"
#include "worker/engine/report/environment.h"
#include "worker/engine/report/page.h"
#include "worker/engine/text/missing_tokenizer.h"
#include "worker/engine/text/tokenizer.h"

namespace teq::pipeline {
namespace {

using teq::v1::EngineEvent;
using teq::v1::Stage;
using torch::Tensor;

/// The ids of a text must have an embedding. An added token may have none, as long as no text has
/// it, which who reads a text checks.
absl::Status CheckVocabulary(const text::Tokenizer& tokenizer,
                             const model_info::ModelConfig& config) {
  if (tokenizer.base_vocabulary_size() <= config.vocabulary_size) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "VOCABULARY_MISMATCH",
               fmt::format("the tokenizer has {} tokens, but config.json's vocab_size is {}; the "
                           "tokenizer belongs to another model",
                           tokenizer.base_vocabulary_size(), config.vocabulary_size));
}

/// What loaders make of a model's float32 tensors, as they give all of a model one type: that of
/// its other values; float16 where it has none.
torch::ScalarType Float32PublishedAs(const model_info::CheckpointIndex& index) {
  std::uint64_t half = 0;
  std::uint64_t bfloat = 0;
  for (const auto& [name, tensor] : index.tensors) {
    if (tensor.dtype == model_info::DType::kF16) half += tensor.bytes;
    if (tensor.dtype == model_info::DType::kBF16) bfloat += tensor.bytes;
  }
  return bfloat > half ? torch::kBFloat16 : torch::kFloat16;
}

}  // namespace

absl::Status JobRun::ToSealedContent() {
  report_.set_job(start_.job());
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_FETCH, &JobRun::Fetch));
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_BASELINE_EVAL, &JobRun::BaselineEval));
  if (Calibrates(recipe())) {
    TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_CALIBRATE, &JobRun::Calibrate));
  }
  if (transforms() || Trains(recipe())) {
    TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_TRANSFORM, &JobRun::Transform));
  }
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_ROUND, &JobRun::Round));
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_PACK, &JobRun::Pack));
  TEQ_RETURN_IF_ERROR(Timed(teq::v1::STAGE_VERIFY, &JobRun::Verify));
  return Seal();
}

void JobRun::Abandon() {
  if (publication_) publication_->Abandon().IgnoreError();
}

absl::Status JobRun::Timed(Stage stage, absl::Status (JobRun::*run)()) {
  TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled_));
  stage_ = stage;
  stage_start_ = std::chrono::steady_clock::now();
  // FETCH makes the plan.
  if (stage != teq::v1::STAGE_FETCH) scratch_.SetBudget(memory_.at(stage).states);
  SendProgress(0, 0, "");
  absl::Status status = (this->*run)();
  // What a stage has asked of the device is its own, time and errors.
  if (status.ok()) status = model::Synchronize(device_);
  // Whatever else is wrong with a model that was changed comes from that.
  if (!status.ok() && !cancelled_) {
    if (absl::Status changed = CheckSource(); !changed.ok()) status = std::move(changed);
  }
  model::GiveBackFreedMemory();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - stage_start_;
  (*report_.mutable_timing_seconds())[ShortEnumName(teq::v1::Stage_descriptor(), stage)] =
      elapsed.count();
  return status;
}

void JobRun::SendProgress(std::int64_t done, std::int64_t total, const char* unit) {
  EngineEvent event;
  teq::v1::Progress& progress = *event.mutable_progress();
  progress.set_stage(stage_);
  progress.set_done(done);
  progress.set_total(total);
  progress.set_unit(unit);
  if (done > done_before_ && total > 0) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - stage_start_;
    progress.set_remaining_seconds(elapsed.count() / static_cast<double>(done - done_before_) *
                                   static_cast<double>(total - done));
  }
  sink_(event);
}

// Later stages have progress of their own.
void JobRun::OnWait(std::uint64_t done, std::uint64_t total) {
  if (stage_ != teq::v1::STAGE_FETCH) return;
  SendProgress(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total), "bytes");
}

absl::Status JobRun::Fetch() {
  for (const int format : spec_.output().formats()) {
    TEQ_ASSIGN_OR_RETURN(outputs_.emplace_back().format,
                         FindOutputFormat(static_cast<teq::v1::Format>(format)));
  }
  // Small things first: what is wrong with them should not cost the time of the weights.
  TEQ_RETURN_IF_ERROR(inputs_->Named(FetchModel()));
  TEQ_RETURN_IF_ERROR(inputs_->Named(FetchTexts()));
  const objects::Publisher publisher{start_.job(), start_.job_uid(), Digest(spec_),
                                     start_.attempt(), start_.fence()};
  std::vector<std::string> directories;
  for (const Output& output : outputs_) directories.emplace_back(output.format->directory);
  TEQ_ASSIGN_OR_RETURN(publication_,
                       objects::Publication::Begin(spec_.output().uri(), options_.uri_policy,
                                                   publisher, directories, options_.data));
  TEQ_RETURN_IF_ERROR(CheckRoomOnDisks());
  inputs_->Prefetch();
  teq::v1::Inputs& inputs = *report_.mutable_inputs();
  inputs.set_recipe_sha256(Digest(recipe()));
  *report_.mutable_recipe() = recipe();
  inputs.set_engine_version(TEQ_VERSION);
  inputs.set_device(device_.description);
  inputs.set_instruction_set(report::InstructionSet());
  inputs.set_matrix_products(report::MatrixProducts());
  inputs.set_threads(at::get_num_threads());
  inputs.set_evaluation_dtype("float32");
  return inputs_->Named(LoadModel());
}

absl::Status JobRun::FetchModel() {
  TEQ_ASSIGN_OR_RETURN(device_, model::OpenDevice(spec_.resources().device(), options_.device));
  TEQ_ASSIGN_OR_RETURN(const cache::Inputs::Model model, inputs_->FetchModel(spec_.model().uri()));
  teq::v1::Inputs& inputs = *report_.mutable_inputs();
  inputs.set_model_uri(model.uri);
  model_directory_ = model.directory;
  if (model.is_whole) RememberSmallFiles();
  TEQ_ASSIGN_OR_RETURN(config_, model_info::ReadModelConfig(model_directory_));
  TEQ_ASSIGN_OR_RETURN(checkpoint_, checkpoint::Checkpoint::Open(model_directory_, inputs_));
  if (model.is_whole) {
    TEQ_ASSIGN_OR_RETURN(digest_, WeightsDigest::Open(checkpoint_->index()));
  }
  model_info::MatchPrefix(checkpoint_->index(), config_);
  TEQ_RETURN_IF_ERROR(model_info::CheckTensors(config_, checkpoint_->index()));
  TEQ_ASSIGN_OR_RETURN(packable_.plan, model_info::PlanLayers(spec_, config_));
  TEQ_RETURN_IF_ERROR(model_info::CheckFormats(spec_, config_, packable_.plan, model_directory_));
  // Most formats ask the same.
  std::set<decltype(OutputFormat::check)> checks;
  for (const Output& output : outputs_) {
    if (!checks.insert(output.format->check).second) continue;
    TEQ_RETURN_IF_ERROR(output.format->check(model_directory_, config_));
  }
  TEQ_RETURN_IF_ERROR(PlanRun());
  TEQ_ASSIGN_OR_RETURN(vocabulary_,
                       model_info::FindVocabularyTensors(config_, checkpoint_->index()));
  packable_.config = config_;
  packable_.source = model_directory_;
  grids_ = transform::GridsByBlock(packable_.plan);
  return absl::OkStatus();
}

/// All that is read by name again after FETCH: in PACK companions are copied, and GGUF takes the
/// tokenizer from them and from config.json. Of the card only the licence and the like are
/// repeated.
void JobRun::RememberSmallFiles() {
  const auto remember = [this](std::string_view name) {
    const std::filesystem::path file = model_directory_ / name;
    small_files_[file] = model_info::VersionOf(file);
  };
  remember(model_info::kConfigFile);
  for (const std::string_view name : model_info::kCompanionFiles) remember(name);
}

/// Whether a model that is read where it lies is still the one that the run began with. Weights are
/// the files that were mapped, which may be written to, but stay the same where others take their
/// names. What is read by name again has to have that name.
absl::Status JobRun::CheckSource() const {
  if (!digest_) return absl::OkStatus();
  TEQ_RETURN_IF_ERROR(digest_->CheckUnchanged());
  for (const auto& [file, version] : small_files_) {
    TEQ_RETURN_IF_ERROR(model_info::CheckVersion(file, version, model_info::VersionOf(file)));
  }
  return absl::OkStatus();
}

/// What lies in memory and what in files.
absl::Status JobRun::PlanRun() {
  TEQ_ASSIGN_OR_RETURN(const std::int64_t memory, model::FreeMemory(device_));
  const model_info::MemoryBudget budget{.limit_bytes = model_info::LimitOf(spec_, memory),
                                        .on_device = !device_.torch.is_cpu()};
  TEQ_ASSIGN_OR_RETURN(memory_, model_info::PlanMemory(spec_, config_, packable_.plan, budget));
  report_.mutable_notes()->Add(memory_.notes.begin(), memory_.notes.end());
  return absl::OkStatus();
}

/// Whether the disks have room for what the run will write. Nothing of an earlier attempt is there
/// any more: its scratch files went with its process, and the publication has removed the rest.
absl::Status JobRun::CheckRoomOnDisks() const {
  const double text_share =
      static_cast<double>(calibration_.count) / static_cast<double>(spec_.calibration().samples());
  std::int64_t bytes = 0;
  for (const Output& output : outputs_) {
    bytes += model_info::OutputBytes(output.format->format, recipe(), config_, packable_.plan);
  }
  return CheckDisks(
      DiskNeedOf(memory_, text_share, bytes), options_.data,
      publication_->StagingDirectory(outputs_.front().format->directory).parent_path());
}

absl::Status JobRun::LoadModel() {
  const auto source = [this](const std::string& name) -> absl::StatusOr<Tensor> {
    const auto found = checkpoint_->index().tensors.find(name);
    if (digest_ && found != checkpoint_->index().tensors.end()) {
      TEQ_RETURN_IF_ERROR(digest_->Follow(found->second));
    }
    return checkpoint_->Read(name);
  };
  TEQ_ASSIGN_OR_RETURN(decoder_, model::OpenDecoder(config_, vocabulary_, source, device_.torch));
  // A row of a token that no text has would be met only after the training.
  float32_type_ = Float32PublishedAs(checkpoint_->index());
  for (const std::string& name : std::set{vocabulary_.embedding, vocabulary_.head}) {
    TEQ_ASSIGN_OR_RETURN(const Tensor values, checkpoint_->Read(name));
    TEQ_RETURN_IF_ERROR(CheckRepresentable(name, values));
  }
  decoder_.read_block = [this, read = decoder_.read_block,
                         last = std::size_t{0}](std::size_t number) mutable {
    // Of the block before it nothing is needed any more.
    checkpoint_->Release();
    absl::StatusOr<model::Block> block = read(number);
    // The end-to-end pass also goes from the last block to the first.
    const bool goes_back = number + 1 == std::exchange(last, number);
    if (!goes_back) {
      ReadAhead(number + 1);
    } else if (number > 0) {
      ReadAhead(number - 1);
    }
    return block;
  };
  const std::string first_norm =
      model_info::NormModules(config_, 0, model_info::NormPlace::kAttention).front();
  TEQ_ASSIGN_OR_RETURN(const Tensor norm, checkpoint_->Read(first_norm + ".weight"));
  norm_type_ = PublishedType(norm.scalar_type());
  if (transforms()) groups_ = transform::ScaleGroups(config_, grids_);
  parameters_ = transform::PlainParameters(groups_, grids_, FloatOptions());
  return absl::OkStatus();
}

/// Has the kernel read a block from this disk while the one before it is worked on.
void JobRun::ReadAhead(std::size_t number) {
  if (!digest_) return;
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  for (const model_info::PlannedLayer& planned : packable_.plan) {
    if (static_cast<std::size_t>(planned.layer.block) != number) continue;
    const absl::StatusOr<Tensor> weight = checkpoint_->Read(planned.layer.name + ".weight");
    if (!weight.ok()) return;  // who reads it will say so
    const auto begin = reinterpret_cast<std::uintptr_t>(weight->data_ptr());
    const std::uintptr_t first = begin / page * page;
    madvise(reinterpret_cast<void*>(first), weight->nbytes() + (begin - first), MADV_WILLNEED);
  }
}

absl::Status JobRun::FetchTexts() {
  auto opened = text::OpenTokenizer(model_directory_);
  if (!opened.ok() && !absl::IsNotFound(opened.status())) return opened.status();
  const std::unique_ptr<text::Tokenizer> tokenizer =
      opened.ok() ? *std::move(opened) : std::make_unique<text::MissingTokenizer>(opened.status());
  TEQ_RETURN_IF_ERROR(CheckVocabulary(*tokenizer, config_));
  teq::v1::Inputs& inputs = *report_.mutable_inputs();

  const teq::v1::Calibration& calibration = spec_.calibration();
  TEQ_ASSIGN_OR_RETURN(const auto file, inputs_->FetchText(calibration.uri()));
  TEQ_ASSIGN_OR_RETURN(
      calibration_, text::ReadCalibrationWindows(
                        file, *tokenizer, config_.vocabulary_size, calibration.sequence_length(),
                        calibration.samples(), calibration.seed(), config_.prefix_in_every_window));
  if (Trains(recipe()) && calibration_.count < 2) {
    return Error(
        absl::StatusCode::kInvalidArgument, "TEXT_TOO_SHORT",
        fmt::format("{}: {} window of {} tokens; training needs one more to hold back; give "
                    "more text or lower calibration.sequence_length",
                    calibration.uri(), calibration_.count, calibration_.length));
  }
  inputs.set_calibration_uri(calibration.uri());
  TEQ_ASSIGN_OR_RETURN(*inputs.mutable_calibration_sha256(), inputs_->Sha256(file));
  inputs.set_seed(calibration.seed());
  inputs.set_calibration_samples(static_cast<int>(calibration_.count));
  inputs.set_calibration_sequence_length(static_cast<int>(calibration_.length));
  inputs.set_calibration_tokens(calibration_.count * calibration_.length);
  if (calibration_.count < calibration.samples()) {
    report_.add_notes(fmt::format(
        "{}: has {} windows of {} tokens; calibration.samples asked for {}", calibration.uri(),
        calibration_.count, calibration_.length, calibration.samples()));
  }
  NoteShortLines(calibration.uri(), calibration_);

  for (const std::string& uri : spec_.evaluation().uris()) {
    TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled_));
    TEQ_ASSIGN_OR_RETURN(const auto path, inputs_->FetchText(uri));
    TEQ_ASSIGN_OR_RETURN(text::Windows windows,
                         text::ReadEvaluationWindows(path, *tokenizer, config_.vocabulary_size,
                                                     spec_.evaluation().sequence_length(),
                                                     config_.prefix_in_every_window));
    NoteShortLines(uri, windows);
    inputs.add_evaluation_uris(uri);
    TEQ_ASSIGN_OR_RETURN(*inputs.add_evaluation_sha256(), inputs_->Sha256(path));
    datasets_.push_back({uri, std::move(windows), {}, {}});
  }
  for (const std::string& uri : spec_.evaluation().tasks()) {
    TEQ_ASSIGN_OR_RETURN(const auto path, inputs_->FetchText(uri));
    TEQ_ASSIGN_OR_RETURN(eval::Task task, eval::ReadTask(uri, path, *tokenizer, config_));
    inputs.add_task_uris(uri);
    TEQ_ASSIGN_OR_RETURN(*inputs.add_task_sha256(), inputs_->Sha256(path));
    tasks_.push_back({std::move(task), {}});
  }
  return absl::OkStatus();
}

void JobRun::NoteShortLines(const std::string& uri, const text::Windows& windows) {
  if (windows.short_lines == 0) return;
  report_.add_notes(fmt::format("{}: {} lines have fewer than {} ids and were left out", uri,
                                windows.short_lines, windows.length));
}

absl::Status JobRun::Pack() {
  std::int64_t done = 0;
  for (Output& output : outputs_) {
    TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled_));
    TEQ_ASSIGN_OR_RETURN(
        output.file_digests,
        output.format->write(packable_, publication_->StagingDirectory(output.format->directory)));
    publication_->Settle(output.format->directory, output.file_digests, options_.step_hook);
    SendProgress(++done, static_cast<std::int64_t>(outputs_.size()), "formats");
  }
  return absl::OkStatus();
}

absl::Status JobRun::Seal() {
  TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled_));
  // Its time is in no report: the report is sealed as part of the content.
  stage_ = teq::v1::STAGE_PUBLISH;
  SendProgress(0, 0, "");
  TEQ_ASSIGN_OR_RETURN(*report_.mutable_inputs()->mutable_model_sha256(),
                       digest_ ? digest_->Finish(checkpoint_->index())
                               // Weights that came from elsewhere were hashed on the way.
                               : DigestOfFiles(checkpoint_->index(), [this](const auto& file) {
                                   return inputs_->Sha256(file);
                                 }));
  TEQ_RETURN_IF_ERROR(CheckSource());
  for (const Output& output : outputs_) {
    TEQ_RETURN_IF_ERROR(
        pack::WriteModelCard({.format = output.format->format,
                              .exact = output.exact,
                              .perplexity = output.perplexity,
                              .file_digests = output.file_digests,
                              .source = packable_.source},
                             report_, publication_->StagingDirectory(output.format->directory)));
    teq::v1::Artifact& artifact = *report_.add_artifacts();
    artifact.set_format(ShortEnumName(teq::v1::Format_descriptor(), output.format->format));
    artifact.set_exact(output.exact);
    for (const teq::v1::Perplexity& figures : output.perplexity) {
      teq::v1::ArtifactPerplexity& own = *artifact.add_perplexity();
      own.set_dataset(figures.dataset());
      own.set_value(figures.quantized());
      own.set_delta(figures.delta());
    }
  }
  TEQ_ASSIGN_OR_RETURN(manifest_sha256_, publication_->Seal(report_, report::ReportPage));
  return Upload();
}

absl::Status JobRun::Upload() {
  using Clock = std::chrono::steady_clock;
  constexpr auto kInterval = std::chrono::milliseconds(250);
  stage_start_ = Clock::now();
  Clock::time_point told;
  done_before_ = -1;  // until it is told
  // Told from the store's threads, one at a time, while this one waits for them.
  const auto progress = [&](std::uint64_t done, std::uint64_t total) {
    const Clock::time_point now = Clock::now();
    if (done_before_ < 0) done_before_ = static_cast<std::int64_t>(done);
    if (done == total || now - told >= kInterval) {
      told = now;
      SendProgress(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total), "bytes");
    }
    return !cancelled_;
  };
  const absl::Status status = publication_->Upload(progress, options_.step_hook);
  // However far it came, and whatever the store says of a transfer that was ended.
  return absl::IsCancelled(status) ? CheckCancelled(cancelled_) : status;
}

}  // namespace teq::pipeline
