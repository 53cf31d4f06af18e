"""A budget that is never overspent: the rules (`core`), where they are kept (`store`), and `Ledger`."""

from exeunt.ledger.ledger import Ledger, Limit, Reservation, ledger_of

__all__ = ["Ledger", "Limit", "Reservation", "ledger_of"]
