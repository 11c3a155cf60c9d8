package applet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // lets kubeconfigs use the usual credential plug-ins
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/utils/exec"

	"skiff/pkg/paths"
)

// kubectlMain is upstream's kubectl with one difference: where neither flag
// nor environment names a kubeconfig, it is the administrator's.
func kubectlMain(args []string) int {
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	flags := genericclioptions.NewConfigFlags(true).
		WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50).
		WithWarningPrinter(streams)
	file, err := defaultKubeconfig(paths.New(paths.DefaultData).AdminKubeconfig(), args)
	flags.KubeConfig = &file
	if err != nil {
		explainOnFatal(err)
	}
	cmd := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     append([]string{"kubectl"}, args...),
		ConfigFlags:   flags,
		IOStreams:     streams,
	})
	cmd.SetArgs(args)
	if err := cli.RunNoErrOutput(cmd); err != nil {
		cmdutil.CheckErr(err) // prints and exits as kubectl does
		return 1
	}
	return 0
}

// defaultKubeconfig returns the file kubectl uses if nothing names another,
// and why that will not work, in words that say what to do about it. A user
// with a ~/.kube/config who may not read the administrator's gets his own.
func defaultKubeconfig(admin string, args []string) (string, error) {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "" || namesKubeconfig(args) {
		return "", nil
	}
	f, err := os.Open(admin)
	if err == nil {
		return admin, f.Close()
	}
	if home, e := os.UserHomeDir(); e == nil {
		if _, e := os.Stat(filepath.Join(home, ".kube", "config")); e == nil {
			return "", nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return admin, fmt.Errorf("this user may not read the administrator's kubeconfig %s. Use sudo, or start the server with --write-kubeconfig-mode 0640 or --write-kubeconfig, or set KUBECONFIG to a file of your own", admin)
	case errors.Is(err, fs.ErrNotExist):
		return admin, fmt.Errorf("there is no kubeconfig %s. Is the server running on this machine (skiff status)? With another --write-kubeconfig, set KUBECONFIG to that file", admin)
	default:
		return admin, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
}

// namesKubeconfig reports whether --kubeconfig is among the arguments; after
// "--" they belong to another program.
func namesKubeconfig(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") {
			return true
		}
	}
	return false
}

// explainOnFatal makes kubectl say why, should it fail; commands that need no
// cluster ("kubectl version --client") are not disturbed.
func explainOnFatal(why error) {
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		cmdutil.DefaultBehaviorOnFatal()
		message = strings.TrimSuffix(message, "\n")
		cmdutil.CheckErr(exec.CodeExitError{Err: fmt.Errorf("%s\nskiff: %w", message, why), Code: code})
	})
}
