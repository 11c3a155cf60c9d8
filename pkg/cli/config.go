package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"skiff/pkg/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "print the configuration that a server here would use",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "show-origin", Usage: "say where each value comes from", DisableDefaultText: true},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "yaml", Usage: "yaml or json"},
		}, optionFlags(config.RoleServer, "o")...),
		Action: func(c *cli.Context) error {
			completed, origins, err := load(c, config.RoleServer)
			if err != nil {
				return err
			}
			settings := config.Effective(completed, origins)
			switch format := c.String("output"); format {
			case "yaml":
				return printYAML(c.App.Writer, settings, c.Bool("show-origin"))
			case "json":
				return printJSON(c.App.Writer, settings, c.Bool("show-origin"))
			default:
				return usage(fmt.Errorf("invalid --output %q: want yaml or json", format))
			}
		},
	}
}

// printYAML writes settings as a configuration file that means the same, with
// origins as comments. Settings without a value are left out.
func printYAML(w io.Writer, settings []config.Setting, origins bool) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range settings {
		if len(s.Values) == 0 {
			continue
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.Name}
		var value *yaml.Node
		if s.Kind.IsList() {
			value = &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
			for _, v := range s.Values {
				value.Content = append(value.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v})
			}
		} else {
			tags := map[config.Kind]string{config.KindBool: "!!bool", config.KindNumber: "!!int", config.KindString: "!!str"}
			value = &yaml.Node{Kind: yaml.ScalarNode, Tag: tags[s.Kind], Value: s.Values[0]}
		}
		if origins {
			value.LineComment = "# " + s.Origin.String()
		}
		root.Content = append(root.Content, key, value)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return enc.Close()
}

// printJSON writes settings as an object by name; with origins, each is an
// object of value and origin.
func printJSON(w io.Writer, settings []config.Setting, origins bool) error {
	out := map[string]any{}
	for _, s := range settings {
		value, err := jsonValue(s)
		if err != nil {
			return err
		}
		if origins {
			value = map[string]any{"value": value, "origin": s.Origin.String()}
		}
		out[s.Name] = value
	}
	return writeJSON(w, out)
}

func jsonValue(s config.Setting) (any, error) {
	switch {
	case s.Kind.IsList():
		return append([]string{}, s.Values...), nil
	case len(s.Values) == 0:
		return "", nil
	case s.Kind == config.KindBool:
		return strconv.ParseBool(s.Values[0])
	case s.Kind == config.KindNumber:
		return strconv.Atoi(s.Values[0])
	default:
		return s.Values[0], nil
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}
