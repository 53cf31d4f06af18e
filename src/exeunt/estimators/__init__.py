"""Classifiers with `predict_proba` as networks of one exit, which take raw inputs. No PyTorch."""
