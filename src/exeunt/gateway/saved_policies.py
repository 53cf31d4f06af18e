class SavedPolicies:
    def __init__(self, folder):
        self.folder = folder
        self.history = [(0.0, "reference")]

    def names(self):
        return []

    def active(self):
        return self.history[-1][1]

    @property
    def since(self):
        return self.history[-1][0]

    def activate(self, name, why=""):
        self.history.append((0.0, name))

    def roll_back(self):
        self.history.pop()
        return self.active()

    def load(self, name):
        raise KeyError
