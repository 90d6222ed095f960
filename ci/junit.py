from dataclasses import dataclass, field
@dataclass(frozen=True)
class Check:
    classname: str
    name: str
    status: str
    seconds: float = 0.0
    message: str = ""
    details: str = ""
    properties: dict = field(default_factory=dict)
@dataclass(frozen=True)
class Suite:
    name: str
    checks: tuple
    properties: dict
    seconds: float
    timestamp: str
def write(path, suite): pass
def write_unfinished(path, name, properties): pass
