package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"

	"skiff/pkg/config"
	"skiff/pkg/join"
	"skiff/pkg/join/bootstrap"
	"skiff/pkg/token"
)

// defaultTTL is K3s'.
const defaultTTL = 24 * time.Hour

func tokenCommand() *cli.Command {
	admin := adminFlags()
	format := &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"}
	return &cli.Command{
		Name:  "token",
		Usage: "manage the tokens by which machines join",
		Description: "A server has two tokens that last, in server/token and server/agent-token below its data\n" +
			"directory; rotate changes them. A bootstrap token lets agents join for a time: create makes\n" +
			"one. No token is needed by a node that has joined.",
		Action: subcommandHelp,
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a bootstrap token and print it", ArgsUsage: "[TOKEN]",
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "description", Usage: "what it is for"},
					&cli.StringSliceFlag{Name: "groups", Usage: "extra groups of who authenticates with it (default: " + bootstrap.DefaultGroup + ")"},
					&cli.DurationFlag{Name: "ttl", Value: defaultTTL, Usage: "how long it is good for, as 2h or 30m; 0 for ever"},
					&cli.StringSliceFlag{Name: "usages", Usage: "what it may be used for (default: signing, authentication)"},
					&cli.BoolFlag{Name: "print-join-command", Usage: "print the command that joins a machine instead", DisableDefaultText: true},
				}, admin...),
				Action: createToken,
			},
			{Name: "list", Usage: "list the bootstrap tokens", Flags: append([]cli.Flag{format}, admin...), Action: listTokens},
			{Name: "delete", Usage: "delete bootstrap tokens, by id or in full", ArgsUsage: "TOKEN…", Flags: admin, Action: deleteTokens},
			{Name: "generate", Usage: "print a random bootstrap token without creating it", Action: generateToken},
			{
				Name: "rotate", Usage: "change the server's token, or that for agents, while the server runs",
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "token", Aliases: []string{"t"}, Usage: "the present server token; default: be an administrator by --kubeconfig"},
					&cli.StringFlag{Name: "server", Aliases: []string{"s"}, Usage: "the server to ask, with --token (default: the one on this machine)"},
					&cli.StringFlag{Name: "new-token", Usage: "the new secret, of at least 12 characters (default: a random one)"},
					&cli.BoolFlag{Name: "agent", Usage: "change the token for agents, not the server's", DisableDefaultText: true},
				}, admin...),
				Action: rotateToken,
			},
		},
	}
}

func createToken(c *cli.Context) error {
	if c.NArg() > 1 {
		return usage(fmt.Errorf("%s wants one token at most; flags come before it", c.Command.HelpName))
	}
	t, err := token.NewBootstrap()
	if err != nil {
		return err
	}
	if c.NArg() == 1 {
		if t, err = token.Parse(c.Args().First()); err != nil {
			return usage(err)
		}
		t.CAHash = ""
	}
	o := bootstrap.Options{Token: t, Description: c.String("description"), Groups: split(c.StringSlice("groups")), Usages: split(c.StringSlice("usages"))}
	if !c.IsSet("groups") {
		o.Groups = []string{bootstrap.DefaultGroup}
	}
	if !c.IsSet("usages") {
		o.Usages = []string{bootstrap.UsageSigning, bootstrap.UsageAuthentication}
	}
	switch ttl := c.Duration("ttl"); {
	case ttl < 0:
		return usage(fmt.Errorf("invalid --ttl %q: want a time like 2h, or 0 for ever", ttl))
	case ttl > 0:
		o.Expires = time.Now().Add(ttl)
	}
	if err := o.Check(); err != nil {
		return usage(err)
	}
	a, err := newAdmin(c)
	if err != nil {
		return err
	}
	if t.CAHash, err = token.Hash(a.config.CAData); err != nil {
		return err
	}
	if err := bootstrap.Create(c.Context, a.client, o); err != nil {
		return a.explain(err)
	}
	line := t.Reveal()
	if c.Bool("print-join-command") {
		address, err := a.address(c.Context)
		if err != nil {
			return err
		}
		line = "skiff agent --server " + address + " --token " + line
	}
	return printLines(c.App.Writer, line)
}

// split accepts "a,b" for two items.
func split(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	return out
}

// listedToken is one line of the list.
type listedToken struct {
	Token       string     `json:"token"`
	Expires     *time.Time `json:"expires,omitempty"`
	Usages      []string   `json:"usages"`
	Groups      []string   `json:"groups,omitempty"`
	Description string     `json:"description,omitempty"`
}

func listTokens(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	format := c.String("output")
	if format != "text" && format != "json" {
		return usage(fmt.Errorf("invalid --output %q: want text or json", format))
	}
	a, err := newAdmin(c)
	if err != nil {
		return err
	}
	list, err := bootstrap.List(c.Context, a.client)
	if err != nil {
		return a.explain(err)
	}
	if format == "json" {
		out := []listedToken{}
		for _, o := range list {
			l := listedToken{Token: o.Token.Reveal(), Usages: o.Usages, Groups: o.Groups, Description: o.Description}
			if !o.Expires.IsZero() {
				l.Expires = &o.Expires
			}
			out = append(out, l)
		}
		return writeJSON(c.App.Writer, out)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TOKEN\tTTL\tEXPIRES\tUSAGES\tGROUPS\tDESCRIPTION")
	for _, o := range list {
		ttl, expires := "forever", "never"
		if !o.Expires.IsZero() {
			expires = o.Expires.Format(time.RFC3339)
			if ttl = time.Until(o.Expires).Round(time.Second).String(); !time.Now().Before(o.Expires) {
				ttl = "expired"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Token.Reveal(), ttl, expires, strings.Join(o.Usages, ","), strings.Join(o.Groups, ","), o.Description)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

func deleteTokens(c *cli.Context) error {
	if !c.Args().Present() {
		return usage(fmt.Errorf("%s wants %s; `skiff token list` shows them", c.Command.HelpName, c.Command.ArgsUsage))
	}
	var ids []string
	for _, text := range c.Args().Slice() {
		id := text
		if t, err := token.Parse(text); err == nil && t.Bootstrap() {
			id = t.ID()
		}
		if probe := (token.Token{Secret: token.Secret(id + ".0123456789abcdef")}); !probe.Bootstrap() {
			return usage(fmt.Errorf("%.8q… is not a bootstrap token: want its id of six characters, or all of it; what is in server/token is changed by `skiff token rotate`", text))
		}
		ids = append(ids, id)
	}
	a, err := newAdmin(c)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range slices.Compact(ids) {
		had, err := bootstrap.Delete(c.Context, a.client, id)
		switch {
		case err != nil:
			err = a.explain(err)
		case !had:
			err = fmt.Errorf("there is no bootstrap token %s; `skiff token list` shows what there is", id)
		default:
			err = printLines(c.App.Writer, "bootstrap token "+id+" deleted")
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func generateToken(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	t, err := token.NewBootstrap()
	if err != nil {
		return err
	}
	return printLines(c.App.Writer, t.Reveal())
}

func rotateToken(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	client, cfg, err := rotationClient(c)
	if err != nil {
		return err
	}
	kind, file := "server", cfg.Paths.Token()
	if c.Bool("agent") {
		kind, file = "agent", cfg.Paths.AgentToken()
	}
	fresh, err := client.Rotate(c.Context, kind, token.Secret(c.String("new-token")))
	if refused, ok := errors.AsType[*join.RefusedError](err); ok {
		return errors.New(refused.Message)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "The %s token is changed, in %s of the server, too. Nodes that have joined go on as before; machines that join from now on need this one:\n", kind, file)
	return printLines(c.App.Writer, fresh.Reveal())
}

// rotationClient asks as an administrator, or with the token that is given.
func rotationClient(c *cli.Context) (*join.Client, config.Completed, error) {
	text, server := c.String("token"), c.String("server")
	if text == "" && server == "" {
		a, err := newAdmin(c)
		if err != nil {
			return nil, config.Completed{}, err
		}
		h, err := rest.HTTPClientFor(a.config)
		if err != nil {
			return nil, config.Completed{}, fmt.Errorf("read kubeconfig %s: %w", a.file, err)
		}
		return &join.Client{Transport: explaining{h.Transport, a}, URL: a.config.Host, Logger: slog.New(slog.DiscardHandler)}, a.cfg, nil
	}
	cfg, err := adminConfig(c)
	if err != nil {
		return nil, cfg, err
	}
	if server == "" {
		server = cfg.LocalURL()
	}
	file := ""
	if text == "" {
		file = cfg.Paths.Token()
	}
	t, err := token.Read("token", text, file)
	if err != nil {
		return nil, cfg, usage(err)
	}
	if !strings.HasPrefix(server, "https://") {
		return nil, cfg, usage(fmt.Errorf("invalid --server %q: want https://HOST:PORT", server))
	}
	return &join.Client{URL: server, Token: t, Logger: slog.New(slog.DiscardHandler)}, cfg, nil
}

// explaining is a transport whose errors say what to do.
type explaining struct {
	http.RoundTripper

	admin *admin
}

// RoundTrip implements http.RoundTripper.
func (e explaining) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := e.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, e.admin.explain(err)
	}
	return resp, nil
}
