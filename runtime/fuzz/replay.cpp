// Runs a target on files and folders of files, without a fuzzer: PROGRAM PATH...
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
    std::vector<std::filesystem::path> files;
    for (int k = 1; k < argc; k++) {
        if (!std::filesystem::is_directory(argv[k])) {
            files.emplace_back(argv[k]);
            continue;
        }
        for (const auto& entry : std::filesystem::directory_iterator(argv[k])) {
            files.push_back(entry.path());
        }
    }
    for (const std::filesystem::path& file : files) {
        std::fprintf(stderr, "%s\n", file.c_str()); // the last that is named did not come back
        std::ifstream stream(file, std::ios::binary);
        std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
    std::printf("%zu\n", files.size());
}
