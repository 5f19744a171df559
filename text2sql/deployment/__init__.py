"""From a judged model version to a server that answers: what may go live, how it is checked, and where it serves."""
