"""A network of your own gets three exits: attach, train, record, and see who is answered where."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import exeunt as ex
import exeunt.torch as ext
from exeunt.evaluation.figures import rates_and_shares, save_figure
from exeunt.zoo import digits


def main() -> None:
    torch.manual_seed(0)
    data = load_digits()
    inputs = torch.tensor(data.images, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1) / 16  # (n, 3, 8, 8)
    dataset = TensorDataset(inputs, torch.tensor(data.target))
    learn, hold_out = random_split(dataset, [600, len(dataset) - 600], torch.Generator().manual_seed(0))

    network = ext.attach(digits(), inputs[:2], exits=3)  # prints where the exits are and what they cost
    ext.train(network, DataLoader(learn, batch_size=64, shuffle=True), mode="joint", epochs=4)
    trace = ext.record(network, DataLoader(hold_out, batch_size=256))

    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.3, test=0.4, seed=0)
    policy = ex.auto(fit, calibrate, budget="40%", delta=0.05)
    result = ex.evaluate(policy, test)
    print(result)
    save_figure(rates_and_shares(policy, result).figure, "early_exits")


if __name__ == "__main__":
    main()
