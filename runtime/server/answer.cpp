#include "server.h"

#include <msgpack.hpp>

#include <bit>

namespace actquant::server {
namespace {

using Packer = msgpack::packer<msgpack::sbuffer>;

void pack_bytes(Packer& packer, std::string_view bytes) {
    packer.pack_bin(static_cast<uint32_t>(bytes.size()));
    packer.pack_bin_body(bytes.data(), static_cast<uint32_t>(bytes.size()));
}

// As NumPy arrays are packed by openpi.
void pack_array(Packer& packer, const std::vector<float>& values,
                const std::vector<uint64_t>& shape) {
    packer.pack_map(4);
    pack_bytes(packer, "__ndarray__");
    packer.pack_true();
    pack_bytes(packer, "data");
    pack_bytes(packer, {reinterpret_cast<const char*>(values.data()), 4 * values.size()});
    pack_bytes(packer, "dtype");
    packer.pack(std::endian::native == std::endian::little ? "<f4" : ">f4");
    pack_bytes(packer, "shape");
    packer.pack(shape);
}

void pack_json(Packer& packer, const Json& value) {
    switch (value.type()) {
    case Json::value_t::object:
        packer.pack_map(static_cast<uint32_t>(value.size()));
        for (const auto& [key, member] : value.items()) {
            packer.pack(key);
            pack_json(packer, member);
        }
        break;
    case Json::value_t::array:
        packer.pack_array(static_cast<uint32_t>(value.size()));
        for (const Json& member : value) {
            pack_json(packer, member);
        }
        break;
    case Json::value_t::string:
        packer.pack(value.get_ref<const std::string&>());
        break;
    case Json::value_t::boolean:
        packer.pack(value.get<bool>());
        break;
    case Json::value_t::number_unsigned:
        packer.pack(value.get<uint64_t>());
        break;
    case Json::value_t::number_integer:
        packer.pack(value.get<int64_t>());
        break;
    case Json::value_t::number_float:
        packer.pack(value.get<double>());
        break;
    default:
        packer.pack_nil();
    }
}

std::string text_of(const msgpack::sbuffer& buffer) {
    return {buffer.data(), buffer.size()};
}

} // namespace

// What a client is told first: what the policy takes and gives.
std::string greeting(const Model& model) {
    std::shared_ptr<const Interface> policy = model.policy();
    const Json& about = policy->about;
    const Json& image = about["image"];
    Json hello = {{"model", model.name()},
                  {"policy", about["name"]},
                  {"family", about["family"]},
                  {"inputs", policy->names.wanted()},
                  {"cameras", about["cameras"]},
                  {"optional_cameras", about["optional_cameras"]},
                  {"image_size", Json::array({image["source_height"], image["source_width"]})},
                  {"state_names", about["state"]["names"]},
                  {"action_names", about["action"]["names"]},
                  {"observation_steps", about["observation_steps"]},
                  {"chunk_length", about["action"]["chunk_length"]},
                  {"steps_per_chunk", about["action"]["steps_per_chunk"]},
                  {"control_rate_hz", about["control_rate_hz"]},
                  {"noise_shape", about["noise_shape"]},
                  {"supports_guidance", about["supports_guidance"]}};
    msgpack::sbuffer buffer;
    Packer packer(buffer);
    pack_json(packer, hello);
    return text_of(buffer);
}

std::string answer(const Interface& policy, const Asked& asked, const Chunk& chunk, double seconds,
                   std::optional<double> previous_seconds) {
    Json timing = {{"infer_ms", 1e3 * seconds}};
    if (previous_seconds) {
        timing["prev_total_ms"] = 1e3 * *previous_seconds;
    }
    msgpack::sbuffer buffer;
    Packer packer(buffer);
    packer.pack_map(policy.state_dim > 0 ? 4 : 3);
    packer.pack("actions");
    pack_array(packer, chunk.actions, {policy.chunk_length, policy.action_dim});
    packer.pack("policy_timing");
    pack_json(packer, {{"infer_ms", 1e3 * chunk.seconds}});
    packer.pack("server_timing");
    pack_json(packer, timing);
    if (policy.state_dim > 0) {
        packer.pack("state");
        std::vector<uint64_t> shape{policy.state_dim};
        if (policy.steps > 1) {
            shape.insert(shape.begin(), policy.steps);
        }
        pack_array(packer, asked.state, shape);
    }
    return text_of(buffer);
}

} // namespace actquant::server
