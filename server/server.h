#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/logs/logger.h"
#include "server/config.h"

namespace teq::server {

/// A whole teq-server in this process: store, queue, gRPC, HTTP, and the reaper's thread.
class Server {
 public:
  /// Opens the data directory, migrates the database, listens. Errors name the file, the directory
  /// or the address, and the remedy. What happens to jobs is told to `log`.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Server>> Start(
      const Config& config, std::shared_ptr<const logs::Logger> log);

  /// Drains where that was not done yet.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Addresses with the ports that were chosen.
  [[nodiscard]] const std::string& grpc_address() const;
  [[nodiscard]] const std::string& http_address() const;

  /// Health says NOT_SERVING; watches and waiting workers are told to come back; other calls end,
  /// or are cut after config.drain_timeout. No job changes its state, no lease ends.
  void Drain();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace teq::server
