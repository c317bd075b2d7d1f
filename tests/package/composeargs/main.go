// Command composeargs prints, one a line, what "podman create" has to be told
// for a service of a compose file to be as the file says. A key that it does
// not know is an error: nothing of the file goes untested by being left out.
//
//	composeargs [-replace OLD=NEW]... FILE SERVICE
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"

	"gopkg.in/yaml.v3"
)

type file struct {
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
}

type service struct {
	Volumes     []string `yaml:"volumes"`
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	User        string   `yaml:"user"`
	NetworkMode string   `yaml:"network_mode"`

	// What concerns the build, the order, the end and the restarts.
	Build           any    `yaml:"build"`
	Image           string `yaml:"image"`
	DependsOn       any    `yaml:"depends_on"`
	StopGracePeriod string `yaml:"stop_grace_period"`
	Restart         string `yaml:"restart"`
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("composeargs: ")
	var replace []string
	flag.Func("replace", "OLD=NEW in the paths of the host", func(pair string) error {
		before, after, found := strings.Cut(pair, "=")
		if !found {
			return fmt.Errorf("no = in it")
		}
		replace = append(replace, before, after)
		return nil
	})
	flag.Parse()
	content, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	var f file
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		log.Fatal(err)
	}
	s, found := f.Services[flag.Arg(1)]
	if !found {
		log.Fatalf("there is no service %q", flag.Arg(1))
	}
	fmt.Println(strings.Join(s.args(strings.NewReplacer(replace...)), "\n"))
}

// args are the options of "podman create". A service without a network of its
// own has the one of the container that is named as the service is.
func (s service) args(paths *strings.Replacer) []string {
	args := []string{"--network=none"}
	if of, shared := strings.CutPrefix(s.NetworkMode, "service:"); shared {
		args = []string{"--network=container:" + of}
	}
	for _, volume := range s.Volumes {
		args = append(args, "--volume="+paths.Replace(volume))
	}
	if s.ReadOnly {
		args = append(args, "--read-only")
	}
	for _, capability := range s.CapDrop {
		args = append(args, "--cap-drop="+capability)
	}
	for _, option := range s.SecurityOpt {
		args = append(args, "--security-opt="+option)
	}
	if s.User != "" {
		args = append(args, "--user="+s.User)
	}
	return args
}
