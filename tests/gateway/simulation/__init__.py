"""An owner's weeks in virtual time: the gateway's own classes answer, and only the provider is a stand-in."""
