#include "client/cli/artifacts.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <utility>
#include <vector>

#include "client/cli/download.h"
#include "client/cli/pull.h"
#include "client/cli/render.h"
#include "client/cli/text.h"
#include "client/cli/transfer_view.h"
#include "client/cli/usage.h"
#include "client/objects/endpoint.h"
#include "client/objects/environment.h"
#include "client/objects/file.h"
#include "client/objects/verify.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/yaml.h"

namespace teq::cli {
namespace {

using nlohmann::ordered_json;
using objects::ManifestFile;
using objects::PublishedOutput;
using Stub = teq::v1::ArtifactService::StubInterface;

constexpr std::int32_t kPageSize = 200;
// Every byte is read while the call lasts.
constexpr auto kVerifyTimeout = std::chrono::hours(12);

bool IsUri(const std::string& what) { return what.find("://") != std::string::npos; }

ExitCode Fail(const Session& session, const absl::Status& status) {
  if (absl::IsCancelled(status)) return kInterrupted;
  if (absl::IsInvalidArgument(status)) return FailLocally(session, status);
  const ExitCode code = FailRemotely(session, status);
  return absl::IsDataLoss(status) ? kNotAsExpected : code;
}

// "compressed-tensors" and "GPTQ" as artifacts name them; nothing for an empty text.
std::optional<std::string> FormatName(const std::string& text) {
  if (text.empty()) return std::nullopt;
  std::string format = text;
  std::ranges::transform(format, format.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return format;
}

// What is published, and the store that it lies in where this process reads it itself.
struct Target {
  std::shared_ptr<objects::ObjectStore> store;
  PublishedOutput output;
};

absl::StatusOr<Target> OpenUri(const std::string& uri, const std::string& committed) {
  Target target;
  TEQ_ASSIGN_OR_RETURN(target.store, objects::OpenStore(uri, UriPolicy{}));
  TEQ_ASSIGN_OR_RETURN(target.output, objects::ReadPublishedOutput(*target.store, committed));
  return target;
}

absl::StatusOr<teq::v1::Job> GetPublishedJob(const Session& session, const std::string& name) {
  teq::v1::GetJobRequest request;
  TEQ_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(session, name));
  TEQ_ASSIGN_OR_RETURN(
      teq::v1::Job job,
      CallService(session.stub, &teq::v1::JobService::StubInterface::GetJob, request));
  if (job.state() == teq::v1::Job::STATE_SUCCEEDED) return job;
  return Error(absl::StatusCode::kFailedPrecondition, "JOB_NOT_SUCCEEDED",
               fmt::format("{} is {}: it has published nothing; that comes with SUCCEEDED",
                           job.name(), StateName(job.state())));
}

absl::StatusOr<Target> OpenTarget(const Session& session, const std::string& what) {
  if (IsUri(what)) return OpenUri(what, "");
  TEQ_ASSIGN_OR_RETURN(const teq::v1::Job job, GetPublishedJob(session, what));
  return OpenUri(job.spec().output().uri(), job.manifest_sha256());
}

absl::StatusOr<teq::v1::Manifest> GetManifest(const Session& session, const std::string& name) {
  teq::v1::GetManifestRequest request;
  TEQ_ASSIGN_OR_RETURN(*request.mutable_parent(), FullName(session, name));
  return CallService(session.artifacts, &Stub::GetManifest, request);
}

// The same by the server's word alone.
absl::StatusOr<Target> AskForTarget(const Session& session, const std::string& job) {
  TEQ_ASSIGN_OR_RETURN(teq::v1::Manifest manifest, GetManifest(session, job));
  Target target;
  target.output.text = std::move(*manifest.mutable_content());
  target.output.sha256 = manifest.sha256();
  if (const std::string found = objects::Sha256(target.output.text); found != manifest.sha256()) {
    return Error(absl::StatusCode::kDataLoss, "MANIFEST_MISMATCH",
                 fmt::format("the manifest {}", objects::WrongDigest(manifest.sha256(), found)));
  }
  TEQ_ASSIGN_OR_RETURN(target.output.manifest,
                       objects::ParseManifest(target.output.text, "the server's manifest"));
  return target;
}

absl::StatusOr<std::vector<ManifestFile>> FilesOf(const objects::Manifest& manifest,
                                                  const std::optional<std::string>& format) {
  if (!format) return manifest.files;
  std::vector<ManifestFile> files = manifest.FilesOf(*format);
  if (!files.empty()) return files;
  std::vector<std::string> published;
  published.reserve(manifest.artifacts.size());
  for (const auto& artifact : manifest.artifacts) published.push_back(artifact.format());
  return Error(absl::StatusCode::kNotFound, "FORMAT_NOT_PUBLISHED",
               fmt::format("--format {}: is not published there; what is: {}", *format,
                           fmt::join(published, ", ")));
}

// Every artifact of a job, or of all jobs of a project.
absl::StatusOr<std::vector<teq::v1::PublishedArtifact>> ListAll(const Session& session,
                                                                const std::string& parent) {
  teq::v1::ListArtifactsRequest request;
  request.set_parent(parent);
  request.set_page_size(kPageSize);
  std::vector<teq::v1::PublishedArtifact> artifacts;
  do {
    TEQ_ASSIGN_OR_RETURN(const teq::v1::ListArtifactsResponse page,
                         CallService(session.artifacts, &Stub::ListArtifacts, request));
    artifacts.insert(artifacts.end(), page.artifacts().begin(), page.artifacts().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return artifacts;
}

// ---- Pull ----

std::string ArtifactName(const std::string& job, const std::string& format) {
  std::string id = objects::FormatDirectory(format);
  std::ranges::replace(id, '_', '-');
  return fmt::format("{}/artifacts/{}", job, id);
}

FetchFile FetchFromStore(const objects::ObjectStore& store) {
  return [&store](const ManifestFile& file, const std::filesystem::path& to,
                  const objects::TransferProgress& progress) -> absl::Status {
    TEQ_ASSIGN_OR_RETURN(const objects::ObjectInfo object, store.Head(file.path));
    return store.Download(object, to, progress);
  };
}

// Files of formats have URLs, each asked for when its turn comes.
class UrlFetcher {
 public:
  UrlFetcher(const Session& session, std::string job, const objects::Manifest& manifest)
      : session_(session),
        job_(std::move(job)),
        transport_(objects::MakeCurlTransport(
            {.ca_file = objects::BucketCertificates(objects::ProcessEnvironment())})) {
    for (const auto& artifact : manifest.artifacts) {
      const std::string directory =
          manifest.Prefix() + objects::FormatDirectory(artifact.format()) + "/";
      for (const ManifestFile& file : manifest.FilesOf(artifact.format())) {
        files_.push_back(file);
        names_[file.path] = {ArtifactName(job_, artifact.format()),
                             file.path.substr(directory.size())};
      }
    }
  }

  // Those that it can fetch.
  [[nodiscard]] const std::vector<ManifestFile>& files() const { return files_; }

  absl::Status Fetch(const ManifestFile& file, const std::filesystem::path& to,
                     const objects::TransferProgress& progress) const {
    teq::v1::CreateDownloadUrlRequest request;
    request.set_name(names_.at(file.path).first);
    request.set_file(names_.at(file.path).second);
    TEQ_ASSIGN_OR_RETURN(const teq::v1::CreateDownloadUrlResponse response,
                         CallService(session_.artifacts, &Stub::CreateDownloadUrl, request));
    return DownloadUrl({*transport_, {}, objects::RealRetryWorld()}, response.url(), file.bytes, to,
                       progress);
  }

 private:
  const Session& session_;
  const std::string job_;
  std::shared_ptr<objects::HttpTransport> transport_;
  std::vector<ManifestFile> files_;
  std::map<std::string, std::pair<std::string, std::string>> names_;  // artifact, file; by path
};

void PrintPulled(const Session& session, const PullPlan& plan, const Target& target,
                 const PullResult& result) {
  const objects::Manifest& manifest = target.output.manifest;
  ordered_json artifacts = ordered_json::array();
  std::string text;
  for (const auto& artifact : manifest.artifacts) {
    const std::vector<ManifestFile> files = manifest.FilesOf(artifact.format());
    const bool pulled =
        !files.empty() && std::ranges::count(plan.files, files[0].path, &ManifestFile::path) > 0;
    if (!pulled) continue;
    const std::string path =
        (plan.directory / objects::FormatDirectory(artifact.format())).lexically_normal().string();
    artifacts.push_back({{"format", artifact.format()}, {"path", path}});
    text += fmt::format("{}  {}\n", Printable(artifact.format()), Printable(path));
  }
  if (session.format != Format::kTable) {
    PrintJson(session, {{"directory", plan.directory.string()},
                        {"manifest_sha256", target.output.sha256},
                        {"artifacts", artifacts},
                        {"fetched_files", result.fetched},
                        {"kept_files", result.kept},
                        {"fetched_bytes", result.fetched_bytes}});
    return;
  }
  text += fmt::format("{} files fetched ({}), {} kept, all with the manifest's sha256\n",
                      result.fetched, BytesText(static_cast<std::int64_t>(result.fetched_bytes)),
                      result.kept);
  session.terminal.out << text;
}

ExitCode PullTo(const Session& session, const PullOptions& options, const Target& target,
                std::vector<ManifestFile> files, const FetchFile& fetch) {
  const PullPlan plan{.directory = options.directory,
                      .manifest_text = target.output.text,
                      .prefix = target.output.manifest.Prefix(),
                      .files = std::move(files)};
  absl::StatusOr<PullResult> result = [&] {
    TransferDisplay display(session.terminal, "pull");
    return PullFiles(plan, fetch, [&](std::uint64_t done, std::uint64_t total) {
      display.Show(done, total);
      return !session.terminal.interrupted();
    });
  }();
  if (!result.ok()) {
    const ExitCode code = Fail(session, result.status());
    if (code == kInterrupted) {
      session.terminal.err << fmt::format("stopped; the same command goes on from {}\n",
                                          PartialDirectory(plan.directory).string());
    }
    return code;
  }
  PrintPulled(session, plan, target, *result);
  return kOk;
}

ExitCode PullDirectly(const Session& session, const PullOptions& options) {
  const absl::StatusOr<Target> target = OpenTarget(session, options.what);
  if (!target.ok()) return Fail(session, target.status());
  auto files = FilesOf(target->output.manifest, FormatName(options.format));
  if (!files.ok()) return Fail(session, files.status());
  return PullTo(session, options, *target, *std::move(files), FetchFromStore(*target->store));
}

ExitCode PullViaServer(const Session& session, const PullOptions& options) {
  const absl::StatusOr<std::string> job = FullName(session, options.what);
  if (!job.ok()) return FailLocally(session, job.status());
  const absl::StatusOr<Target> target = AskForTarget(session, *job);
  if (!target.ok()) return Fail(session, target.status());
  const UrlFetcher fetcher(session, *job, target->output.manifest);
  const std::optional<std::string> format = FormatName(options.format);
  absl::StatusOr<std::vector<ManifestFile>> files = fetcher.files();
  if (format) files = FilesOf(target->output.manifest, format);
  if (!files.ok()) return Fail(session, files.status());
  return PullTo(session, options, *target, *std::move(files),
                [&fetcher](const ManifestFile& file, const std::filesystem::path& to,
                           const objects::TransferProgress& progress) {
                  return fetcher.Fetch(file, to, progress);
                });
}

// ---- Verify ----

ExitCode PrintVerification(const Session& session, const std::string& place,
                           const objects::Verification& verification) {
  const ExitCode code = verification.problems.empty() ? kOk : kNotAsExpected;
  if (session.format != Format::kTable) {
    ordered_json problems = ordered_json::array();
    for (const auto& problem : verification.problems) {
      problems.push_back({{"path", problem.path}, {"description", problem.description}});
    }
    PrintJson(session, {{"output", place},
                        {"files", verification.files},
                        {"bytes_read", verification.bytes_read},
                        {"problems", std::move(problems)}});
    return code;
  }
  std::vector<std::vector<std::string>> rows = {{"FILE", "PROBLEM"}};
  for (const auto& problem : verification.problems) {
    rows.push_back({Printable(problem.path), Printable(problem.description)});
  }
  if (rows.size() > 1) session.terminal.out << Table(rows, {}) << "\n";
  session.terminal.out << fmt::format(
      "{}: {} files, {} read: {}\n", Printable(place), verification.files,
      BytesText(static_cast<std::int64_t>(verification.bytes_read)),
      rows.size() > 1 ? fmt::format("{} problems", rows.size() - 1) : "all as published");
  return code;
}

ExitCode VerifyDirectly(const Session& session, const VerifyOptions& options) {
  const absl::StatusOr<Target> target = OpenTarget(session, options.what);
  if (!target.ok()) return Fail(session, target.status());
  const auto files = FilesOf(target->output.manifest, FormatName(options.format));
  if (!files.ok()) return Fail(session, files.status());
  const auto verification = [&] {
    TransferDisplay display(session.terminal, "verify");
    return objects::VerifyFiles(*target->store, *files, objects::VerifyDepth::kDigests,
                                [&](std::uint64_t done, std::uint64_t total) {
                                  display.Show(done, total);
                                  return !session.terminal.interrupted();
                                });
  }();
  if (!verification.ok()) return Fail(session, verification.status());
  return PrintVerification(session, options.what, *verification);
}

ExitCode VerifyViaServer(const Session& session, const VerifyOptions& options) {
  const absl::StatusOr<std::string> job = FullName(session, options.what);
  if (!job.ok()) return FailLocally(session, job.status());
  std::vector<std::string> names;
  if (const std::optional<std::string> format = FormatName(options.format)) {
    names.push_back(ArtifactName(*job, *format));
  } else {
    const auto artifacts = ListAll(session, *job);
    if (!artifacts.ok()) return Fail(session, artifacts.status());
    for (const auto& artifact : *artifacts) names.push_back(artifact.name());
  }
  objects::Verification all;
  for (const std::string& name : names) {
    teq::v1::VerifyArtifactRequest request;
    request.set_name(name);
    request.set_depth(teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS);
    const auto response =
        CallService(session.artifacts, &Stub::VerifyArtifact, request, kVerifyTimeout);
    if (!response.ok()) return Fail(session, response.status());
    all.files += response->files();
    all.bytes_read += static_cast<std::uint64_t>(response->bytes_read());
    for (const auto& problem : response->problems()) {
      all.problems.push_back({problem.path(), problem.description()});
    }
  }
  return PrintVerification(session, *job, all);
}

absl::Status CheckViaServer(const std::string& what) {
  if (!IsUri(what)) return absl::OkStatus();
  return Usage("--via-server needs a job, which the server knows; a URI is read directly");
}

}  // namespace

ExitCode ListArtifacts(const Session& session, const std::string& job) {
  const auto parent = [&]() -> absl::StatusOr<std::string> {
    if (!job.empty()) return FullName(session, job);
    TEQ_ASSIGN_OR_RETURN(const std::string project, ProjectOf(session, "default"));
    return fmt::format("projects/{}/jobs/-", project);
  }();
  if (!parent.ok()) return FailLocally(session, parent.status());
  const auto artifacts = ListAll(session, *parent);
  if (!artifacts.ok()) return FailRemotely(session, artifacts.status());
  if (session.format == Format::kTable) {
    session.terminal.out << PublishedTable(*artifacts);
    return kOk;
  }
  auto list = ordered_json::array();
  for (const auto& artifact : *artifacts) list.push_back(ToJson(artifact));
  PrintJson(session, list);
  return kOk;
}

ExitCode ShowManifest(const Session& session, const std::string& job) {
  const absl::StatusOr<teq::v1::Manifest> manifest = GetManifest(session, job);
  if (!manifest.ok()) return Fail(session, manifest.status());
  if (session.format == Format::kYaml) {
    const auto json = ordered_json::parse(manifest->content(), nullptr, /*allow_exceptions=*/false);
    session.terminal.out << WriteYaml(json);
    return kOk;
  }
  // As it was published, byte for byte.
  session.terminal.out << manifest->content();
  return kOk;
}

ExitCode Pull(const Session& session, const PullOptions& options) {
  const absl::Status directory = AbsoluteDirectory(options.directory).status();
  if (!directory.ok()) return FailLocally(session, directory);
  if (!options.via_server) return PullDirectly(session, options);
  const absl::Status usage = CheckViaServer(options.what);
  return usage.ok() ? PullViaServer(session, options) : FailLocally(session, usage);
}

ExitCode Verify(const Session& session, const VerifyOptions& options) {
  if (!options.via_server) return VerifyDirectly(session, options);
  const absl::Status usage = CheckViaServer(options.what);
  return usage.ok() ? VerifyViaServer(session, options) : FailLocally(session, usage);
}

}  // namespace teq::cli
