#include "client/cli/read_job_file.h"

#include <filesystem>
#include <fstream>
#include <istream>
#include <sstream>
#include <system_error>
#include <utility>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"

namespace teq::cli {
namespace {

absl::Status NotReadable(const std::string& file, std::string_view what) {
  return Error(absl::StatusCode::kInvalidArgument, "FILE_NOT_READABLE",
               fmt::format("{}: {}; name a job file, or - for standard input", file, what));
}

absl::StatusOr<std::string> ReadAll(std::istream& in, const std::string& file) {
  std::ostringstream text;
  // Where there is nothing to read, << would call that a failure.
  if (in.peek() != std::istream::traits_type::eof()) text << in.rdbuf();
  if (in.bad() || text.fail()) return NotReadable(file, "cannot be read");
  return std::move(text).str();
}

absl::StatusOr<std::string> ReadJobText(const Terminal& terminal, const std::string& file) {
  if (file == "-") {
    std::ostringstream text;
    text << terminal.in.rdbuf();
    return std::move(text).str();
  }
  std::error_code unseen;
  if (std::filesystem::is_directory(file, unseen)) return NotReadable(file, "is a directory");
  std::ifstream in(file, std::ios::binary);
  if (!in) return NotReadable(file, "cannot be opened");
  return ReadAll(in, file);
}

}  // namespace

absl::StatusOr<JobFile> ReadJobFile(const Terminal& terminal, const std::string& file) {
  const std::string name = file == "-" ? "standard input" : file;
  TEQ_ASSIGN_OR_RETURN(const std::string text, ReadJobText(terminal, file));
  TEQ_ASSIGN_OR_RETURN(JobFile job_file, ParseJobFile(text, name));
  TEQ_RETURN_IF_ERROR(WithContext(ValidateAttributes(job_file.job), name));
  TEQ_RETURN_IF_ERROR(WithContext(ValidateSpec(WithDefaults(job_file.job.spec())), name));
  return job_file;
}

}  // namespace teq::cli
