// teq-server: the front end. Exit codes: 0 drained after a signal, or backed up; 1 could not start,
// or back up; 2 bad usage or config; 3 a second signal; 128 + N signal N before it began.
#include <grpc/support/log.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "client/logs/logger.h"
#include "client/process/start.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/config.h"
#include "server/server.h"
#include "server/store/backup.h"
#include "server/store/data_directory.h"
#include "spdlog/spdlog.h"

namespace {

constexpr const char* kProgram = "teq-server";
constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;
constexpr int kExitForced = 3;

struct Flags {
  std::string config;
  std::optional<std::string> listen;
  std::optional<std::string> http;
  std::optional<std::string> data;
  bool allow_plaintext = false;
  std::string log_format;
  std::string backup_file;
};

absl::StatusOr<teq::server::Config> ConfigOf(const Flags& flags) {
  teq::server::Config config;
  if (!flags.config.empty()) {
    TEQ_ASSIGN_OR_RETURN(config, teq::server::ReadConfig(flags.config));
  }
  if (flags.listen) config.listen = *flags.listen;
  if (flags.http) config.http = *flags.http;
  if (flags.data) config.data = *flags.data;
  if (flags.allow_plaintext) config.allow_plaintext = true;
  if (const auto format = teq::logs::ParseFormat(flags.log_format)) config.log_format = *format;
  TEQ_RETURN_IF_ERROR(teq::server::CheckConfig(config));
  return config;
}

int Fail(teq::logs::Format format, const absl::Status& status, int exit_code) {
  teq::logs::TellFailure(kProgram, format, status);
  return exit_code;
}

/// As far as the command line says; a config file that cannot be read says nothing.
teq::logs::Format FormatOf(const Flags& flags) {
  return teq::logs::ParseFormat(flags.log_format).value_or(teq::logs::Format::kText);
}

/// For scripts and for those who start it by hand. Where lines are JSON, all of them are.
void TellAddresses(teq::logs::Format format, const teq::server::Server& server) {
  const std::string line =
      fmt::format("listening grpc={} http={}", server.grpc_address(), server.http_address());
  if (format == teq::logs::Format::kJson) {
    spdlog::info("{}", line);
    return;
  }
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

/// Blocked in every thread, so that only sigwait takes them.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

int WaitForSignal(const sigset_t& signals) {
  int signal = 0;
  sigwait(&signals, &signal);
  return signal;
}

int Serve(const Flags& flags) {
  const absl::StatusOr<teq::server::Config> config = ConfigOf(flags);
  if (!config.ok()) return Fail(FormatOf(flags), config.status(), kExitUsage);
  const std::shared_ptr<teq::logs::Logger> log = teq::logs::StartLog(kProgram, config->log_format);
  const sigset_t signals = BlockStopSignals();
  absl::StatusOr<std::unique_ptr<teq::server::Server>> server =
      teq::server::Server::Start(*config, log);
  if (!server.ok()) return Fail(config->log_format, server.status(), kExitCannotStart);
  TellAddresses(config->log_format, **server);
  spdlog::info("teq-server {}: gRPC on {}, HTTP on {}, data in {}", TEQ_VERSION,
               (*server)->grpc_address(), (*server)->http_address(), config->data.string());

  spdlog::info("{}: draining", strsignal(WaitForSignal(signals)));
  std::thread([&signals] {
    WaitForSignal(signals);
    spdlog::warn("second signal: stopping at once");
    std::_Exit(kExitForced);
  }).detach();
  (*server)->Drain();
  server->reset();
  spdlog::info("stopped");
  return EXIT_SUCCESS;
}

int BackUp(const Flags& flags) {
  const absl::StatusOr<teq::server::Config> config = ConfigOf(flags);
  if (!config.ok()) return Fail(FormatOf(flags), config.status(), kExitUsage);
  const absl::Status status =
      teq::store::BackUp(teq::store::DatabaseFile(config->data), flags.backup_file);
  return status.ok() ? EXIT_SUCCESS : Fail(config->log_format, status, kExitCannotStart);
}

}  // namespace

int main(int argc, char** argv) {
  teq::process::EndAtStopSignals();
  teq::process::RaiseFileLimit();
  // What of it matters comes back as a status.
  gpr_set_log_function([](gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); });
  Flags flags;
  CLI::App app("The front end of teqd: job queue, gRPC API, metrics.", "teq-server");
  app.set_version_flag("--version", std::string(TEQ_VERSION));
  app.add_option("--config", flags.config, "YAML file; flags override it");
  app.add_option("--listen", flags.listen, "address of the gRPC API (127.0.0.1:8470)");
  app.add_option("--http", flags.http, "address of /metrics, /healthz, /readyz (127.0.0.1:8471)");
  app.add_option("--data", flags.data, "directory of the database (./teqd-data)");
  app.add_flag("--allow-plaintext", flags.allow_plaintext,
               "serve other machines, too, without encryption");
  app.add_option("--log-format", flags.log_format, "text, or json: a JSON object a line (text)")
      ->envname("TEQ_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}));
  app.require_subcommand(0, 1);
  app.fallthrough();
  CLI::App* backup = app.add_subcommand("backup", "Copy the database, while a server uses it");
  backup->add_option("--to", flags.backup_file, "file to write; never replaces one")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return app.exit(asked);  // --help, --version
  } catch (const CLI::ParseError& error) {
    const absl::Status usage = teq::Error(absl::StatusCode::kInvalidArgument, "USAGE",
                                          fmt::format("{}; see {} --help", error.what(), kProgram));
    return Fail(FormatOf(flags), usage, kExitUsage);
  }
  if (backup->parsed()) return BackUp(flags);
  return Serve(flags);
}
