REFERENCE = {}
RATES = {}
DISK = {}
