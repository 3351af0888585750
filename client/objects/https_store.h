#pragma once

#include <memory>
#include <string>

#include "client/objects/http.h"
#include "client/objects/object_store.h"
#include "client/objects/retry.h"
#include "client/objects/sigv4.h"

namespace teq::objects {

/// A path of a web server, to read from by ranges. An etag is the server's strong one; where a file
/// has none, size and Last-Modified have to stay as the store's last Head of it found them, and a
/// change of neither goes unnoticed.
struct HttpsStoreOptions {
  std::string base_url;   // encoded, with a slash at its end; what a key is put behind
  std::string uri;        // what messages call it, without a slash at its end
  Pairs headers;          // sent with each request, such as Authorization
  int max_redirects = 0;  // 0: a redirect is an error that names where it leads
  std::shared_ptr<HttpTransport> transport;
  RetryPolicy retry;
  RetryWorld world = RealRetryWorld();
};
[[nodiscard]] std::shared_ptr<ObjectStore> OpenHttpsStore(HttpsStoreOptions options);

}  // namespace teq::objects
