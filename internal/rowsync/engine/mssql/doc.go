// Package mssql replicates rows between databases of Microsoft SQL Server, 2016 and
// later, or of another server that speaks TDS and T-SQL. It never assumes an ability
// by the name of a product: what differs is probed when a database is opened (probe.go).
//
// All T-SQL is made by the functions of the files sql_*.go and by nothing else;
// testdata/statements.golden.sql holds one example of each, to be read as a whole.
package mssql
