#include <grpc/support/log.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/logs/logger.h"
#include "client/objects/file.h"
#include "client/process/start.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"
#include "spdlog/spdlog.h"
#include "worker/agent/agent.h"
#include "worker/agent/config.h"
#include "worker/agent/crash_point.h"
#include "worker/agent/data_directory.h"
#include "worker/agent/engine_host.h"
#include "worker/agent/id_lock.h"
#include "worker/agent/metrics.h"
#include "worker/agent/run_job.h"
#include "worker/engine/model/device.h"
#include "worker/engine/model/threads.h"
#include "worker/engine/pipeline/run.h"
#include "worker/engine/speed/calibrate_devices.h"

namespace {

constexpr const char* kProgram = "teq-worker";
constexpr int kUsage = 2;

// What the command line says; a value that is set overrides the configuration file's.
struct Flags {
  std::string config_file;
  teq::agent::WorkerConfig config;
  std::string log_format;
  int max_jobs = 0;
  bool exit_when_idle = false;
  std::string job_file;
  std::string report_file;
};

// What the whole program writes to from now on.
std::shared_ptr<teq::logs::Logger> StartLog(teq::logs::Format format) {
  auto log = teq::logs::StartLog(kProgram, format);
  // What of it matters comes back as a status.
  gpr_set_log_function([](gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); });
  return log;
}

// As far as the command line says; a configuration file that cannot be read says nothing.
teq::logs::Format FormatOf(const Flags& flags) {
  return teq::logs::ParseFormat(flags.log_format).value_or(teq::logs::Format::kText);
}

absl::Status WrongUsage(const CLI::ParseError& error) {
  return teq::Error(absl::StatusCode::kInvalidArgument, "USAGE",
                    fmt::format("{}; see {} --help", error.what(), kProgram));
}

int Fail(teq::logs::Format format, const absl::Status& status, int code) {
  teq::logs::TellFailure(kProgram, format, status);
  return code;
}

// The configuration file with the flags that were given laid over it.
absl::StatusOr<teq::agent::WorkerConfig> ReadConfig(const CLI::App& app, const Flags& flags) {
  teq::agent::WorkerConfig config;
  if (!flags.config_file.empty()) {
    TEQ_ASSIGN_OR_RETURN(const std::string text, teq::objects::ReadFile(flags.config_file));
    TEQ_ASSIGN_OR_RETURN(config, teq::agent::ParseWorkerConfig(text, flags.config_file));
  }
  const auto given = [&app](const char* name) { return app.count(name) > 0; };
  if (given("--server")) config.server = flags.config.server;
  if (given("--id")) config.id = flags.config.id;
  if (given("--http")) config.http = flags.config.http;
  if (given("--threads")) config.threads = flags.config.threads;
  if (given("--uri-prefix")) config.uri_prefixes = flags.config.uri_prefixes;
  if (given("--hpu-plugin")) config.hpu_plugin = flags.config.hpu_plugin;
  if (given("--device-index")) config.device_index = flags.config.device_index;
  if (given("--data")) config.data = flags.config.data;
  if (given("--cache-gib")) config.cache_gib = flags.config.cache_gib;
  if (const auto format = teq::logs::ParseFormat(flags.log_format)) config.log_format = *format;
  for (const std::string& prefix : config.uri_prefixes) {
    TEQ_RETURN_IF_ERROR(teq::WithContext(teq::CheckUriPrefix(prefix), "uri_prefixes"));
  }
  TEQ_RETURN_IF_ERROR(teq::agent::CheckWorkerConfig(config));
  return config;
}

// Flags that say something of a server must not be taken for something that `run` does.
absl::Status CheckRunFlags(const CLI::App& app) {
  constexpr std::array kOfServers = {"--server", "--id", "--http", "--max-jobs",
                                     "--exit-when-idle"};
  for (const char* flag : kOfServers) {
    if (app.count(flag) == 0) continue;
    return teq::Error(absl::StatusCode::kInvalidArgument, "USAGE",
                      fmt::format("{}: `run` runs one job without a server; leave it out", flag));
  }
  return absl::OkStatus();
}

teq::model::DeviceOptions DeviceOf(const teq::agent::WorkerConfig& config) {
  return {.hpu_plugin = config.hpu_plugin, .index = config.device_index};
}

// This program again, as the engine.
std::vector<std::string> EngineCommand(const teq::agent::WorkerConfig& config) {
  std::vector<std::string> command = {
      "/proc/self/exe", "--threads",   std::to_string(config.threads),  "--data",
      config.data,      "--cache-gib", std::to_string(config.cache_gib)};
  for (const std::string& prefix : config.uri_prefixes) {
    command.insert(command.end(), {"--uri-prefix", prefix});
  }
  command.insert(command.end(), {"--device-index", std::to_string(config.device_index)});
  if (!config.hpu_plugin.empty()) {
    command.insert(command.end(), {"--hpu-plugin", config.hpu_plugin});
  }
  command.emplace_back("engine");
  return command;
}

int RunEngine(const teq::agent::WorkerConfig& config) {
  const teq::pipeline::Options options{.threads = config.threads,
                                       .uri_policy = {.allowed_prefixes = config.uri_prefixes},
                                       .device = DeviceOf(config),
                                       .data = config.data,
                                       .cache_bytes = static_cast<std::uint64_t>(config.cache_gib)
                                                      << 30,
                                       .step_hook = teq::agent::CrashPoint};
  return teq::agent::ServeEngine(
      teq::agent::kEngineDescriptor,
      [&options](const teq::v1::StartRun& start, const teq::pipeline::EventSink& sink,
                 const std::atomic<bool>& cancelled) {
        teq::pipeline::Run(start, options, sink, cancelled);
      },
      [&config] { return teq::speed::CalibrateDevices(config.threads, DeviceOf(config)); });
}

int RunWithoutServer(const teq::agent::WorkerConfig& config, const Flags& flags) {
  std::shared_ptr<teq::logs::Logger> log = StartLog(config.log_format);
  if (config.log_format == teq::logs::Format::kText) log = nullptr;
  return teq::agent::RunJob({.job_file = flags.job_file,
                             .report_file = flags.report_file,
                             .engine_command = EngineCommand(config),
                             .uri_policy = {.allowed_prefixes = config.uri_prefixes},
                             .data = config.data,
                             .log = std::move(log)});
}

int RunAgent(const teq::agent::WorkerConfig& config, const Flags& flags) {
  const absl::StatusOr<std::string> id = teq::agent::WorkerId(config.id);
  const auto log = StartLog(config.log_format);
  if (!id.ok()) return Fail(config.log_format, id.status(), kUsage);
  const auto devices = teq::model::AvailableDevices(DeviceOf(config));
  if (!devices.ok()) return Fail(config.log_format, devices.status(), kUsage);
  if (const absl::Status data = teq::agent::CheckDataDirectory(config.data); !data.ok()) {
    return Fail(config.log_format, data, kUsage);
  }
  const auto lock = teq::agent::LockId(config.data, config.server, *id);
  if (absl::IsAlreadyExists(lock.status())) return Fail(config.log_format, lock.status(), kUsage);
  if (!lock.ok()) {
    log->warn("a second worker named {} would not be noticed: {}", *id,
              std::string(lock.status().message()));
  }
  teq::agent::WorkerMetrics metrics(TEQ_VERSION, config.data);
  std::unique_ptr<teq::http::HttpServer> side_port;
  if (!config.http.empty()) {
    auto served = teq::agent::ServeMetrics(config.http, metrics);
    if (!served.ok()) return Fail(config.log_format, served.status(), EXIT_FAILURE);
    side_port = *std::move(served);
    log->info("metrics on {}", side_port->address());
  }
  const teq::agent::AgentOptions options{.server = config.server,
                                         .worker_id = *id,
                                         .engine_command = EngineCommand(config),
                                         .calibration_command = EngineCommand(config),
                                         .engine_version = TEQ_VERSION,
                                         .devices = *devices,
                                         .uri_policy = {.allowed_prefixes = config.uri_prefixes},
                                         .data = config.data,
                                         .max_jobs = flags.max_jobs,
                                         .exit_when_idle = flags.exit_when_idle};
  return teq::agent::RunAgent(options, {.metrics = &metrics, .log = log});
}

void AddFlags(CLI::App& app, Flags& flags) {
  app.add_option("--config", flags.config_file, "Configuration file (YAML)");
  app.add_option("--server", flags.config.server, "Address of teq-server: host:port or unix:PATH");
  app.add_option("--http", flags.config.http, "Address to serve /metrics on, such as 127.0.0.1:0");
  app.add_option("--id", flags.config.id, "Name of this worker, stable over restarts");
  app.add_option("--threads", flags.config.threads, "CPU threads of the engine; 0: all cores")
      ->check(CLI::Range(0, teq::agent::kMaxThreads));
  app.add_option("--uri-prefix", flags.config.uri_prefixes,
                 "A prefix of URIs that jobs may name; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--hpu-plugin", flags.config.hpu_plugin, "Shared object of the HPU device");
  app.add_option("--device-index", flags.config.device_index,
                 "Which CUDA or HPU device this worker has, from 0")
      ->envname("TEQ_DEVICE_INDEX")
      ->check(CLI::Range(0, teq::agent::kMaxDeviceIndex));
  app.add_option("--data", flags.config.data,
                 "Directory of fetched models, staged results and scratch files");
  app.add_option("--cache-gib", flags.config.cache_gib,
                 "The most that fetched models and texts may take, GiB")
      ->check(CLI::Range(std::int64_t{1}, teq::agent::kMaxCacheGib));
  app.add_option("--log-format", flags.log_format, "text, or json: a JSON object a line (text)")
      ->envname("TEQ_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--max-jobs", flags.max_jobs, "Stop after so many jobs; 0: never")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()));
  app.add_flag("--exit-when-idle", flags.exit_when_idle, "Stop when there is nothing to do");
}

}  // namespace

int main(int argc, char** argv) {
  teq::model::SetSleepingThreads();  // of the engine, which is started from here

  CLI::App app("Leases and runs teqd's quantization jobs.", "teq-worker");
  Flags flags;
  AddFlags(app, flags);
  app.set_version_flag("--version", "teq-worker " TEQ_VERSION);
  app.require_subcommand(0, 1);
  app.fallthrough();
  CLI::App* run = app.add_subcommand("run", "Run one job without a server");
  run->add_option("--job", flags.job_file, "Job file (YAML)")->required();
  run->add_option("--report", flags.report_file, "Write the report here as well (JSON)");
  CLI::App* engine = app.add_subcommand("engine", "The child process that runs a job")->group("");
  CLI::App* version = app.add_subcommand("version", "Print the version");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return app.exit(asked);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return Fail(FormatOf(flags), WrongUsage(error), kUsage);
  }
  // How the engine ends is its agent's to tell.
  if (!engine->parsed()) teq::process::EndAtStopSignals();
  teq::process::RaiseFileLimit();
  if (version->parsed()) {
    fmt::print("teq-worker {}\n", TEQ_VERSION);
    return EXIT_SUCCESS;
  }
  if (run->parsed()) {
    const absl::Status status = CheckRunFlags(app);
    if (!status.ok()) return Fail(FormatOf(flags), status, kUsage);
  }
  const absl::StatusOr<teq::agent::WorkerConfig> config = ReadConfig(app, flags);
  if (!config.ok()) return Fail(FormatOf(flags), config.status(), kUsage);
  if (engine->parsed()) return RunEngine(*config);
  if (run->parsed()) return RunWithoutServer(*config, flags);
  return RunAgent(*config, flags);
}
