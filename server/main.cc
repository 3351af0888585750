// teq-server: the front end. Exit codes: 0 drained after a signal, or backed up; 1 could not start,
// or back up; 2 bad usage or config.
#include <grpc/support/log.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/config.h"
#include "server/server.h"
#include "server/store/backup.h"
#include "server/store/data_directory.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace {

constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;
constexpr int kExitForced = 3;

struct Flags {
  std::string config;
  std::optional<std::string> listen;
  std::optional<std::string> http;
  std::optional<std::string> data;
  bool allow_plaintext = false;
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
  TEQ_RETURN_IF_ERROR(teq::server::CheckConfig(config));
  return config;
}

int Fail(const absl::Status& status, int exit_code) {
  fmt::print(stderr, "teq-server: {}: {}\n", teq::ErrorReason(status),
             std::string(status.message()));
  return exit_code;
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
  if (!config.ok()) return Fail(config.status(), kExitUsage);
  const sigset_t signals = BlockStopSignals();
  absl::StatusOr<std::unique_ptr<teq::server::Server>> server = teq::server::Server::Start(*config);
  if (!server.ok()) return Fail(server.status(), kExitCannotStart);
  fmt::print("listening grpc={} http={}\n", (*server)->grpc_address(), (*server)->http_address());
  std::fflush(stdout);
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
  if (!config.ok()) return Fail(config.status(), kExitUsage);
  const absl::Status status =
      teq::store::BackUp(teq::store::DatabaseFile(config->data), flags.backup_file);
  return status.ok() ? EXIT_SUCCESS : Fail(status, kExitCannotStart);
}

}  // namespace

int main(int argc, char** argv) {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::stderr_sink_mt>()));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
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
  app.require_subcommand(0, 1);
  app.fallthrough();
  CLI::App* backup = app.add_subcommand("backup", "Copy the database, while a server uses it");
  backup->add_option("--to", flags.backup_file, "file to write; never replaces one")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  if (backup->parsed()) return BackUp(flags);
  return Serve(flags);
}
