// Answers inputs one by one: one_file MODEL WIDTH < lines of "KEY x x x ..." > lines of "LABEL EXIT COST".
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <vector>

#include <onnxruntime_cxx_api.h>

int main(int, char** arguments) {
  Ort::Env env;
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, arguments[1], options);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<float> input(std::atoi(arguments[2]));
  const int64_t shape[] = {1, static_cast<int64_t>(input.size())}, one[] = {1};
  const char *names[] = {"pixels", "key"}, *asked[] = {"label", "exit", "cost"};
  std::cout.precision(17);
  for (uint64_t key; std::cin >> key;) {
    for (float& value : input) std::cin >> value;
    const Ort::Value given[] = {
        Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape, 2),
        Ort::Value::CreateTensor<uint64_t>(memory, &key, 1, one, 1)};
    const auto found = session.Run(Ort::RunOptions{}, names, given, 2, asked, 3);
    std::cout << *found[0].GetTensorData<int64_t>() << ' ' << *found[1].GetTensorData<int64_t>() << ' '
              << *found[2].GetTensorData<double>() << '\n';
  }
}
