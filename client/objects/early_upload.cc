#include "client/objects/early_upload.h"

#include <chrono>
#include <system_error>

#include "client/objects/attempt_files.h"

namespace teq::objects {

void EarlyUpload::Add(std::vector<File> files, const StepHook& hook) {
  // Shared, so that they stay where no thread can be started.
  const auto before = std::make_shared<std::future<void>>(std::move(last_));
  try {
    last_ = std::async(std::launch::async, [this, before, files = std::move(files), hook] {
      if (before->valid()) before->wait();
      for (const File& file : files) {
        if (stopped_ || !may_send_()) return;
        Tell(hook, "upload_file");
        Send(file);
      }
    });
  } catch (const std::system_error&) {
    last_ = std::move(*before);  // these files are left out
  }
}

void EarlyUpload::Send(const File& file) {
  const std::uint64_t before = sent_;
  const TransferProgress progress = [&](std::uint64_t done, std::uint64_t /*total*/) {
    sent_ = before + done;
    return !stopped_;
  };
  if (store_->Upload(file.key, file.path, file.sha256, progress).ok()) {
    has_[file.key] = file.sha256;
  } else {
    sent_ = before;
  }
}

bool EarlyUpload::Wait(const std::function<bool(std::uint64_t sent)>& go_on) {
  constexpr auto kInterval = std::chrono::milliseconds(100);
  while (last_.valid() && last_.wait_for(kInterval) != std::future_status::ready) {
    if (go_on(sent_)) continue;
    Stop();
    return false;
  }
  return true;
}

bool EarlyUpload::Has(const std::string& key, const std::string& sha256) const {
  const auto found = has_.find(key);
  return found != has_.end() && found->second == sha256;
}

void EarlyUpload::Stop() {
  stopped_ = true;
  if (last_.valid()) last_.wait();
}

}  // namespace teq::objects
