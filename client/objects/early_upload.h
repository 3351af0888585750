#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/objects/object_store.h"
#include "client/objects/publication.h"

namespace teq::objects {

/// Files on their way to a store while their owner does other things: one after the other, in the
/// order in which they were added, with what ObjectStore::Upload takes of threads and memory for
/// one. A file that fails is left out, and the next one tried: whoever needs it uploads it again,
/// and hears what the store says. Used from one thread; it stops in the destructor.
class EarlyUpload {
 public:
  struct File {
    std::string key;
    std::filesystem::path path;
    std::string sha256;
  };

  /// `may_send` is asked before each file, from another thread; where it says no, that file and
  /// those added with it that come after are left out.
  EarlyUpload(std::shared_ptr<ObjectStore> store, std::function<bool()> may_send)
      : store_(std::move(store)), may_send_(std::move(may_send)) {}
  ~EarlyUpload() { Stop(); }
  EarlyUpload(const EarlyUpload&) = delete;
  EarlyUpload& operator=(const EarlyUpload&) = delete;

  /// Returns at once. `hook` is told "upload_file" before each, from another thread.
  void Add(std::vector<File> files, const StepHook& hook);

  /// Waits until each file was tried; meanwhile asks `go_on` now and then, with the bytes that have
  /// been sent. Where it says false the transfer is stopped, and false is returned.
  [[nodiscard]] bool Wait(const std::function<bool(std::uint64_t sent)>& go_on);

  /// Whether a file of this digest was sent under the key. Only after Wait.
  [[nodiscard]] bool Has(const std::string& key, const std::string& sha256) const;

  /// Ends the transfer; nothing of it runs any more when this returns, soon.
  void Stop();

 private:
  void Send(const File& file);

  std::shared_ptr<ObjectStore> store_;
  std::function<bool()> may_send_;
  std::atomic<bool> stopped_ = false;
  std::atomic<std::uint64_t> sent_ = 0;     // bytes, of the file that travels too
  std::map<std::string, std::string> has_;  // sha256 by key; `last_` writes there
  std::future<void> last_;                  // waits for those before it
};

}  // namespace teq::objects
