package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is the command that the tests wrap: this test binary again.
//
//	signals          prints the signals that it gets, ends with 9 at the second SIGTERM or SIGINT
//	polite ADDRESS   the same, but listens, and ends with 0 at the first
//	burn MiB         keeps a processor busy for half a minute, and so much memory
//	serve ADDRESS    accepts connections and sends nothing
//	exit CODE
//	die SIGNAL       by its own hand
//	orphans          leaves two children to process 1 that die, and waits until they are buried
func child(args []string) {
	parent := os.Getppid()
	go func() { // a failing test kills only the announcer
		for os.Getppid() == parent {
			time.Sleep(20 * time.Millisecond) // a child of its own looks now and then
		}
		os.Exit(3)
	}()
	switch args[0] {
	case "polite", "signals":
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
		if len(args) > 1 {
			l, err := net.Listen("tcp", args[1])
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			defer l.Close()
		}
		fmt.Println("ready", os.Getpid())
		fmt.Fprintln(os.Stderr, "ready too")
		ends := 0
		for s := range signals {
			fmt.Println("got", s)
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				ends++
			}
			if ends == 1 && args[0] == "polite" {
				os.Exit(0)
			}
			if ends == 2 {
				os.Exit(9)
			}
		}
	case "burn":
		mib, _ := strconv.Atoi(args[1])
		held := make([]byte, mib<<20)
		fmt.Println("ready", os.Getpid())
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			for i := 0; i < len(held); i += 1 << 10 {
				held[i]++
			}
		}
	case "serve":
		l, err := net.Listen("tcp", args[1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready", os.Getpid())
		for {
			conn, err := l.Accept()
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			go func() {
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	case "exit":
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	case "die":
		number, _ := strconv.Atoi(args[1])
		_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
		select {}
	case "orphans":
		orphans()
	}
}

func orphans() {
	// sh leaves sleep behind; its new parent is process 1.
	var left []int
	for range 2 {
		out, err := exec.Command("sh", "-c", "sleep 0.1 >/dev/null & echo $!").Output()
		pid, convErr := strconv.Atoi(strings.TrimSpace(string(out)))
		if err := errors.Join(err, convErr); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		left = append(left, pid)
	}
	for range 500 {
		time.Sleep(20 * time.Millisecond) // a child of its own looks now and then
		left = slices.DeleteFunc(left, func(pid int) bool {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) // a zombie still has its number
		})
		if len(left) == 0 {
			fmt.Println("all are buried")
			os.Exit(0)
		}
	}
	fmt.Println("not buried:", left)
	os.Exit(1)
}
