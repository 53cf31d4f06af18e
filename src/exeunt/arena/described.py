"""The policies of the catalogue in a sentence each, for readers who meet their names first in a report."""

from __future__ import annotations

__all__ = ["DESCRIBED"]

DESCRIBED = {
    "eero": "The EERO paper's rates, exponential weights on each exit's error rate; the most confident leave first.",
    "msdnet": "MSDNet's rates: the share that leaves grows or shrinks by one factor from exit to exit.",
    "predictive_exit": "Predictive Exit's rates: a bell curve (Gaussian) around one exit.",
    "common_threshold": "One confidence threshold for all exits.",
    "auto": "The default of the command line: learned scores, with rates that are weighed by cross-validation on the "
    "fit part.",
    "optimised": "Thresholds searched one after the other for the most right answers on the fit part.",
    "stopping": "Answers where going on gains less than it costs, as learned from the fit part.",
    "learned_correctness": "Answers where the exit is most likely right, as learned from the fit part.",
    "patience": "PABEE: answers once several exits in a row agree.",
    "confident_patience": "PCEE: answers once two exits in a row are confident.",
    "genetic": "Thresholds found by differential evolution, a genetic search, on the fit part.",
    "risk_controlled": "One threshold for all exits, as risk control has it. It always plans for a certificate, at "
    "delta 0.05 where none is asked for, and so spends less.",
    "random_routing": "EERO's rates, with inputs drawn by lot: what confidence is worth shows against it.",
}
