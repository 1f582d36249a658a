package cross

// Ignored reports whether patterns leave a path out, its folders included.
func Ignored(patterns, path string, dir bool) (bool, error) {
	g, err := parseIgnores(patterns)
	if err != nil {
		return false, err
	}
	for i := range path {
		if path[i] == '/' && g.match(path[:i], true) {
			return true, nil
		}
	}
	return g.match(path, dir), nil
}

// CPUArch reads the architecture out of arm's build attributes.
var CPUArch = cpuArch

// NeedsARMv7 reads the build attributes of a program.
var NeedsARMv7 = needsARMv7
