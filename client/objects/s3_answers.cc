#include "client/objects/s3_answers.h"

#include <cstring>
#include <optional>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "pugixml.hpp"

namespace teq::objects {
namespace {

absl::Status BadAnswer(std::string_view what) {
  return Error(absl::StatusCode::kInternal, "BAD_ANSWER",
               fmt::format("the server's answer {}; check that the endpoint speaks S3", what));
}

// pugixml reads no entities but the predefined ones, and no document type: nothing can grow.
absl::StatusOr<pugi::xml_node> Root(std::string_view xml, pugi::xml_document& document,
                                    const char* name) {
  const auto parsed =
      document.load_buffer(xml.data(), xml.size(), pugi::parse_default, pugi::encoding_utf8);
  if (!parsed) return BadAnswer(fmt::format("is no XML ({})", parsed.description()));
  const pugi::xml_node root = document.document_element();
  if (std::strcmp(root.name(), name) != 0) return BadAnswer(fmt::format("has no <{}>", name));
  return root;
}

std::string Text(const pugi::xml_node& node, const char* name) {
  return node.child(name).text().as_string();
}

bool IsTrue(const pugi::xml_node& node, const char* name) { return Text(node, name) == "true"; }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// encoding-type=url is that of forms: a space is a plus.
std::optional<std::string> UrlDecode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+') {
      decoded += ' ';
    } else if (text[i] != '%') {
      decoded += text[i];
    } else {
      const int high = i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexDigit(text[i + 2]) : -1;
      if (high < 0 || low < 0) return std::nullopt;
      decoded += static_cast<char>(high * 16 + low);
      i += 2;
    }
  }
  return decoded;
}

absl::StatusOr<std::string> Key(const pugi::xml_node& list, const pugi::xml_node& node,
                                const char* name) {
  std::string key = Text(node, name);
  if (Text(list, "EncodingType") != "url") return key;
  std::optional<std::string> decoded = UrlDecode(key);
  if (!decoded) return BadAnswer("has a key with a malformed escape");
  return *std::move(decoded);
}

}  // namespace

S3Error ParseError(std::string_view xml) {
  pugi::xml_document document;
  auto root = Root(xml, document, "Error");
  if (!root.ok()) {  // STS wraps it
    root = Root(xml, document, "ErrorResponse");
    if (!root.ok()) return {};
    root = root->child("Error");
  }
  return {.code = Text(*root, "Code"),
          .message = Text(*root, "Message"),
          .region = Text(*root, "Region")};
}

absl::StatusOr<ListPage> ParseListPage(std::string_view xml) {
  pugi::xml_document document;
  TEQ_ASSIGN_OR_RETURN(const pugi::xml_node root, Root(xml, document, "ListBucketResult"));
  ListPage page;
  for (const pugi::xml_node& node : root.children("Contents")) {
    ObjectInfo object;
    TEQ_ASSIGN_OR_RETURN(object.key, Key(root, node, "Key"));
    object.bytes = node.child("Size").text().as_ullong();
    object.etag = Text(node, "ETag");
    page.objects.push_back(std::move(object));
  }
  if (!IsTrue(root, "IsTruncated")) return page;
  page.next = Text(root, "NextContinuationToken");
  if (page.next.empty()) return BadAnswer("is cut and names no next page");
  return page;
}

absl::StatusOr<UploadsPage> ParseUploadsPage(std::string_view xml) {
  pugi::xml_document document;
  TEQ_ASSIGN_OR_RETURN(const pugi::xml_node root,
                       Root(xml, document, "ListMultipartUploadsResult"));
  UploadsPage page;
  for (const pugi::xml_node& node : root.children("Upload")) {
    UploadsPage::Upload upload{.id = Text(node, "UploadId")};
    TEQ_ASSIGN_OR_RETURN(upload.key, Key(root, node, "Key"));
    page.uploads.push_back(std::move(upload));
  }
  if (!IsTrue(root, "IsTruncated")) return page;
  page.is_last = false;
  TEQ_ASSIGN_OR_RETURN(page.next_key, Key(root, root, "NextKeyMarker"));
  page.next_id = Text(root, "NextUploadIdMarker");
  if (page.next_key.empty()) return BadAnswer("is cut and names no next page");
  return page;
}

absl::StatusOr<std::string> ParseUploadId(std::string_view xml) {
  pugi::xml_document document;
  TEQ_ASSIGN_OR_RETURN(const pugi::xml_node root,
                       Root(xml, document, "InitiateMultipartUploadResult"));
  std::string id = Text(root, "UploadId");
  if (id.empty()) return BadAnswer("has no UploadId");
  return id;
}

absl::StatusOr<std::string> ParseCompletedEtag(std::string_view xml) {
  pugi::xml_document document;
  TEQ_ASSIGN_OR_RETURN(const pugi::xml_node root,
                       Root(xml, document, "CompleteMultipartUploadResult"));
  return Text(root, "ETag");
}

std::string CompleteBody(const std::vector<CompletedPart>& parts) {
  std::string body = R"(<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">)";
  for (std::size_t i = 0; i < parts.size(); ++i) {
    pugi::xml_document document;
    pugi::xml_node part = document.append_child("Part");
    part.append_child("PartNumber").text().set(static_cast<unsigned>(i + 1));
    part.append_child("ETag").text().set(parts[i].etag.c_str());
    if (!parts[i].sha256.empty()) {
      part.append_child("ChecksumSHA256").text().set(parts[i].sha256.c_str());
    }
    struct Writer : pugi::xml_writer {
      explicit Writer(std::string& target) : text(target) {}
      void write(const void* data, std::size_t size) override {
        text.append(static_cast<const char*>(data), size);
      }
      std::string& text;
    } writer(body);
    part.print(writer, "", pugi::format_raw);
  }
  return body + "</CompleteMultipartUpload>";
}

absl::StatusOr<Credentials> ParseAssumedRole(std::string_view xml) {
  pugi::xml_document document;
  TEQ_ASSIGN_OR_RETURN(const pugi::xml_node root,
                       Root(xml, document, "AssumeRoleWithWebIdentityResponse"));
  const pugi::xml_node node = root.child("AssumeRoleWithWebIdentityResult").child("Credentials");
  Credentials credentials{.access_key_id = Text(node, "AccessKeyId"),
                          .secret_access_key = Text(node, "SecretAccessKey"),
                          .session_token = Text(node, "SessionToken")};
  if (credentials.access_key_id.empty() || credentials.secret_access_key.empty() ||
      !absl::ParseTime(absl::RFC3339_full, Text(node, "Expiration"), &credentials.expiry,
                       nullptr)) {
    return BadAnswer("holds no keys");
  }
  return credentials;
}

}  // namespace teq::objects
