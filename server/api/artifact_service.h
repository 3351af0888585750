#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/objects/object_store.h"
#include "proto/spec/uri.h"
#include "server/api/blocking_calls.h"
#include "server/queue/artifact_catalog.h"
#include "teq/v1/artifact_service.grpc.pb.h"

namespace teq::api {

struct ArtifactOptions {
  UriPolicy uri_policy;
  /// GetManifest and CreateDownloadUrl calls at once.
  int max_reads = 16;
  /// VerifyArtifact calls at once; each reads with a few threads.
  int max_verifications = 2;
  /// The store below an output's URI, whose calls end with CANCELLED soon after `go_on` says false.
  std::function<absl::StatusOr<std::shared_ptr<objects::ObjectStore>>(
      std::string_view uri, const UriPolicy& policy, const std::function<bool()>& go_on)>
      open_store =
          [](std::string_view uri, const UriPolicy& policy, const std::function<bool()>& go_on) {
            return objects::OpenStore(uri, policy, go_on);
          };
};

/// teq.v1.ArtifactService: what is published, from the catalog, and what lies in the outputs, with
/// this server's own access to them. Thread-safe.
class ArtifactService final : public teq::v1::ArtifactService::CallbackService {
 public:
  /// `catalog` outlives it.
  ArtifactService(ArtifactOptions options, const queue::ArtifactCatalog* catalog);

  grpc::ServerUnaryReactor* GetArtifact(grpc::CallbackServerContext* context,
                                        const teq::v1::GetArtifactRequest* request,
                                        teq::v1::PublishedArtifact* response) override;
  grpc::ServerUnaryReactor* ListArtifacts(grpc::CallbackServerContext* context,
                                          const teq::v1::ListArtifactsRequest* request,
                                          teq::v1::ListArtifactsResponse* response) override;
  /// RESOURCE_EXHAUSTED, reason MANIFEST_TOO_LARGE, for one that no gRPC message holds: readers
  /// take it from the output.
  grpc::ServerUnaryReactor* GetManifest(grpc::CallbackServerContext* context,
                                        const teq::v1::GetManifestRequest* request,
                                        teq::v1::Manifest* response) override;
  grpc::ServerUnaryReactor* CreateDownloadUrl(
      grpc::CallbackServerContext* context, const teq::v1::CreateDownloadUrlRequest* request,
      teq::v1::CreateDownloadUrlResponse* response) override;
  grpc::ServerUnaryReactor* VerifyArtifact(grpc::CallbackServerContext* context,
                                           const teq::v1::VerifyArtifactRequest* request,
                                           teq::v1::VerifyArtifactResponse* response) override;

  /// Ends calls that wait for an output with SERVER_DRAINING.
  void Drain();

 private:
  const ArtifactOptions options_;
  const queue::ArtifactCatalog* const catalog_;
  BlockingCalls reads_;
  BlockingCalls verifications_;
};

}  // namespace teq::api
